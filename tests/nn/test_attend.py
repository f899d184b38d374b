"""Which way attention is computed, and what cuDNN is asked for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.nn import attend
from lora_jax.nn.engine import Engine
from lora_jax.nn.visibility import Visibility

KEY = jax.random.key(0)
CAUSAL = Visibility(first_query=0)
PADDED = Visibility(stop=jnp.array([3]))


def choice(
    backend: str,
    tokens: int,
    *,
    attention: str = "auto",
    visibility: Visibility = CAUSAL,
    rows: int = 1,
    head_dim: int = 64,
    keys: int | None = None,
    dtype: Any = "bfloat16",
    rate: float = 0.0,
) -> str:
    query: Any = jax.ShapeDtypeStruct((rows, 8, tokens, head_dim), dtype)
    key: Any = jax.ShapeDtypeStruct((rows, 2, keys or tokens, head_dim), dtype)
    engine = Engine(attention=attention, backend=backend)
    return attend.choose(query, key, visibility, engine, rate=rate)


class TestChoice:
    def test_on_a_cpu_long_rows_are_chunked(self):
        assert choice("cpu", 511) == "plain"
        assert choice("cpu", 512) == "chunked"
        # A token that is generated reads many keys, and is one query.
        assert choice("cpu", 1, keys=4096) == "plain"

    def test_on_a_tpu_many_scores_are(self):
        assert choice("tpu", 1024) == "plain"
        assert choice("tpu", 1024, rows=8) == "chunked"
        # Less than a chunk cannot be cut.
        assert choice("tpu", 64, rows=2**14) == "plain"

    def test_on_a_gpu_it_is_cudnn(self):
        assert choice("gpu", 64) == "cudnn"
        assert choice("gpu", 64, visibility=PADDED) == "cudnn"
        assert choice("gpu", 2, keys=64, visibility=PADDED) == "cudnn"
        # It cannot train on odd numbers of either.
        assert choice("gpu", 1, keys=64, visibility=PADDED) == "plain"
        assert choice("gpu", 64, keys=63, visibility=PADDED) == "plain"

    @pytest.mark.parametrize(
        "changes",
        [
            {"dtype": "float32"},
            {"rate": 0.1},
            {"head_dim": 160},
            {"head_dim": 12},
            {"keys": 2048},
            {"visibility": CAUSAL.after(3)},
            {"visibility": Visibility(first_query=1)},
            {"visibility": Visibility(start=jnp.array([3]))},
        ],
    )
    def test_where_cudnn_cannot_compute_it_many_scores_are_chunked(self, changes):
        assert choice("gpu", 1024, **changes) != "cudnn"
        assert choice("gpu", 1024, rows=8, **changes) == "chunked"
        assert choice("cpu", 1024, rows=8, attention="cudnn", **changes) == "chunked"

    def test_a_way_that_is_asked_for_is_taken(self):
        assert choice("gpu", 1024, rows=8, attention="plain") == "plain"
        assert choice("tpu", 8, attention="chunked") == "chunked"
        assert choice("cpu", 8, attention="cudnn") == "cudnn"

    def test_the_default_backend_is_that_of_the_process(self):
        assert Engine().target == jax.default_backend()

    def test_chunks_are_multiples_of_an_accelerators_width(self):
        query: Any = jax.ShapeDtypeStruct((8, 32, 1024, 64), "bfloat16")
        assert attend._chunk_width(query, query, "tpu") == 128
        few_keys: Any = jax.ShapeDtypeStruct((8, 32, 256, 64), "bfloat16")
        assert attend._chunk_width(query, few_keys, "tpu") == 512
        assert attend._chunk_width(query, few_keys, "cpu") == 64


class TestCudnn:
    """The arguments for cuDNN, given to the same function's other implementation."""

    @pytest.fixture(autouse=True)
    def other_implementation(self, monkeypatch):
        original = jax.nn.dot_product_attention

        def attention(*tensors, implementation, **options):
            assert implementation == "cudnn"
            return original(*tensors, implementation="xla", **options)

        monkeypatch.setattr(jax.nn, "dot_product_attention", attention)

    def tensors(self, tokens: int) -> tuple[Any, Any, Any]:
        keys = jax.random.split(KEY, 3)
        shapes = [(3, 4, tokens, 8), (3, 2, 6, 8), (3, 2, 6, 8)]
        drawn = []
        for key, shape in zip(keys, shapes, strict=True):
            drawn.append(jax.random.normal(key, shape, jnp.bfloat16))
        return tuple(drawn)

    @pytest.mark.parametrize(
        ("visibility", "tokens"),
        [
            (Visibility(), 6),
            (CAUSAL, 6),
            (Visibility(stop=jnp.array([6, 2, 1])), 1),
            (Visibility(stop=jnp.array([6, 2, 1]), first_query=0), 6),
        ],
    )
    def test_it_is_plain_attention(self, visibility, tokens):
        tensors = self.tensors(tokens)
        cudnn = attend.attend(*tensors, visibility, Engine(backend="gpu"))
        plain = attend.attend(*tensors, visibility, Engine(attention="plain"))
        assert cudnn.dtype == plain.dtype == jnp.bfloat16
        cudnn, plain = np.float32(cudnn), np.float32(plain)
        np.testing.assert_allclose(cudnn, plain, rtol=2**-6, atol=2**-6)

    def test_a_row_without_tokens_is_finite(self):
        nothing = Visibility(stop=jnp.array([0, 0, 0]))
        mixed = attend.attend(*self.tensors(6), nothing, Engine(backend="gpu"))
        assert np.isfinite(np.float32(mixed)).all()
