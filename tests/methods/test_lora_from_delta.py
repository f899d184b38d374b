"""The adapter out of a fine-tuning, against the theorem of Eckart and Young in numpy's float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import methods, tree
from lora_jax.methods.lora import LoRA, LoRAEmbedding
from lora_jax.methods.lora_from_delta import lora_from_delta
from lora_jax.nn.layers import Embedding, Linear


def random_adapter(rng, layer, rank):
    *stack, i, o = layer.kernel.shape
    a, b = (
        jnp.float32(rng.normal(size=(*stack, *shape)))
        for shape in ((i, rank), (rank, o))
    )
    return LoRA(layer, a, b, jnp.full((*stack, rank), 0.5))


@pytest.fixture(scope="module")
def tuned(tiny):
    """Every leaf moved a little."""
    rng = np.random.default_rng(1)
    moved = {
        path: leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape))
        for path, leaf in tree.leaves(tiny()).items()
    }
    return tree.replace(tiny(), moved)


def test_by_hand():
    base = {
        "query": Linear(jnp.ones((2, 2)), jnp.zeros(2)),
        "head": Linear(jnp.zeros((2, 1))),
    }
    after = {
        "query": Linear(jnp.array([[5.0, 1.0], [1.0, 2.0]]), jnp.ones(2)),
        "head": Linear(jnp.ones((2, 1))),
    }
    model = lora_from_delta(base, after, targets="query", rank=1)  # ΔW = diag(4, 1)
    layer = model["query"]
    np.testing.assert_allclose(layer.delta(), [[4, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(
        np.abs(layer.lora_a[...]), [[2], [0]], atol=1e-6
    )  # sqrt(4) in either factor
    assert layer.scale[...].tolist() == [1] and layer.base.kernel[...].tolist() == [
        [1, 1],
        [1, 1],
    ]
    assert layer.base.bias[...].tolist() == [0, 0] and model["head"].kernel[
        ...
    ].tolist() == [[1], [1]]
    whole = lora_from_delta(base, after, targets="query", rank=2, others="tuned")
    assert whole["query"].base.bias[...].tolist() == [1, 1]
    np.testing.assert_allclose(
        methods.merge(whole)["query"].kernel[...], after["query"].kernel[...], atol=1e-6
    )


@settings(deadline=None, max_examples=20)
@given(
    rank=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**32 - 1),
    pattern=st.sampled_from(["query,value", "mlp/.*"]),
)
def test_of_a_merged_lora_of_that_rank_it_is_exact(tiny, rank, seed, pattern):
    rng, base = np.random.default_rng(seed), tiny()
    layers = methods.targets(base, pattern)
    after = methods.merge(
        tree.replace(
            base,
            {path: random_adapter(rng, layer, rank) for path, layer in layers.items()},
        )
    )
    again = methods.merge(lora_from_delta(base, after, targets=pattern, rank=rank))
    for path, leaf in tree.leaves(after).items():
        np.testing.assert_allclose(
            tree.leaves(again)[path], leaf, atol=2e-5, err_msg=path
        )


@settings(deadline=None, max_examples=20)
@given(
    rank=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(6, 8), (8, 5)]),
)
def test_the_error_is_the_tail_of_the_singular_values(rank, seed, size):
    old, new = np.random.default_rng(seed).normal(size=(2, 3, *size)).astype(np.float32)
    model = lora_from_delta(
        {"up": Linear(old)}, {"up": Linear(new)}, targets="up", rank=rank
    )
    delta = new.astype(np.float64) - old
    s = np.linalg.svd(delta, compute_uv=False)
    missed = np.linalg.norm(
        delta - np.asarray(model["up"].delta(), np.float64), axis=(-2, -1)
    )
    np.testing.assert_allclose(missed, np.sqrt((s[:, rank:] ** 2).sum(-1)), atol=2e-5)


def test_stacked_layers_are_each_their_own(tiny, tuned):
    old, new = (model.blocks.attention.query.kernel[...] for model in (tiny(), tuned))
    stacked = lora_from_delta(
        tiny(), tuned, targets="query", rank=3
    ).blocks.attention.query.delta()
    for layer, delta in enumerate(stacked):
        alone = lora_from_delta(
            {"query": Linear(old[layer])},
            {"query": Linear(new[layer])},
            targets="query",
            rank=3,
        )
        np.testing.assert_allclose(delta, alone["query"].delta(), atol=1e-5)


@pytest.mark.parametrize("others", ["base", "tuned"])
def test_whose_the_other_leaves_are(tiny, tuned, others):
    merged = tree.leaves(
        methods.merge(
            lora_from_delta(tiny(), tuned, targets="query", rank=16, others=others)
        )
    )
    for path, leaf in merged.items():
        if path == "blocks/attention/query/kernel":
            np.testing.assert_allclose(leaf, tree.leaves(tuned)[path], atol=1e-5)
        else:
            source = tuned if others == "tuned" or path.startswith("head/") else tiny()
            assert leaf.tolist() == tree.leaves(source)[path].tolist(), path


def test_it_counts_and_adapts_as_any_lora(tiny, tuned):
    model = lora_from_delta(tiny(), tuned, rank=4)
    assert methods.counts(model, methods.lora()) == (
        2 * 2 * 4 * (16 + 16),
        tree.count(tiny().head),
    )
    assert methods.adapters(model).keys() == {
        "blocks/attention/query",
        "blocks/attention/value",
    }


def test_embeddings_and_flax_layers():
    rng = np.random.default_rng(0)
    old, new = (
        {
            "tokens": Embedding(np.float32(rng.normal(size=(9, 4)))),
            "proj": nnx.Linear(4, 3, rngs=nnx.Rngs(seed)),
        }
        for seed in (0, 1)
    )
    model = lora_from_delta(old, new, targets="tokens,proj", rank=3)
    assert isinstance(model["tokens"], LoRAEmbedding) and isinstance(
        model["proj"], LoRA
    )
    np.testing.assert_allclose(
        methods.merge(model)["proj"].kernel[...], new["proj"].kernel[...], atol=1e-6
    )
    assert model["tokens"](jnp.array([8])).shape == (1, 4)


def test_half_precision_kernels_are_widened():
    old, new = (
        {"up": Linear(jnp.full((2, 2), value, jnp.bfloat16))} for value in (1, 1.5)
    )
    model = lora_from_delta(old, new, targets="up", rank=1)
    assert model["up"].lora_a[...].dtype == jnp.float32
    assert methods.merge(model)["up"].kernel[...].tolist() == [[1.5, 1.5], [1.5, 1.5]]


class TestErrors:
    def test_trees_that_differ(self, tiny):
        with pytest.raises(
            ValueError,
            match=r"leaves alike .* head/bias: \(3,\) and \(2,\); head/kernel: \(16, 3\) and \(16, 2\)",
        ):
            lora_from_delta(tiny(), tiny(labels=2))
        with pytest.raises(
            ValueError,
            match=r"merge adapters first.*query/kernel: \(2, 16, 16\) and none; .*; … \(21 in all\)",
        ):
            lora_from_delta(
                tiny(),
                methods.lora("query,key,value").adapt(nnx.Rngs(0).params(), tiny()),
            )

    def test_a_pattern_that_matches_nothing(self, tiny, tuned):
        with pytest.raises(
            ValueError,
            match=r"targets: 'qeury' matches no layer; there are: blocks/attention/query",
        ):
            lora_from_delta(tiny(), tuned, targets="qeury")

    @pytest.mark.parametrize("rank", [0, 17])
    def test_a_rank_there_is_not(self, tiny, tuned, rank):
        said = rf"rank: expected 1 <= rank <= min\(i, o\), got {rank} for .*query \(16 x 16\), .*up \(16 x 32\)"
        with pytest.raises(ValueError, match=said):
            lora_from_delta(tiny(), tuned, targets="query,up", rank=rank)

    def test_another_rest(self, tiny, tuned):
        with pytest.raises(
            ValueError, match="others: expected base or tuned, got 'mine'"
        ):
            lora_from_delta(tiny(), tuned, others="mine")
