"""What several test files share: tiny models whose every leaf is random, and a tiny task that can be learnt."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, tree
from lora_jax.models import bert

jax.config.update(
    "jax_num_cpu_devices", 2
)  # every training of the tests is spread over two devices

TINY = dict(
    layers=2,
    width=16,
    heads=2,
    ffn=32,
    vocabulary=50,
    max_positions=24,
    segments=2,
    epsilon=1e-6,
    activation="gelu",
    pad=1,
)


@pytest.fixture(scope="session")
def config() -> Callable[..., bert.Config]:
    """`config(kind, **changes)`: 2 layers of width 16, 2 heads, 32 feed-forward, 50 tokens."""
    return lambda kind="bert", **changes: bert.Config(
        **{"kind": kind, **TINY, **changes}
    )


@pytest.fixture(scope="session")
def tiny(config) -> Callable[..., bert.Encoder]:
    """`tiny(kind, labels, **changes)`: a model of that config; every leaf is N(0, 0.3²), or so around 1."""

    @functools.cache
    def make(kind: str = "bert", labels: int = 3, **changes: Any) -> bert.Encoder:
        shapes = jax.eval_shape(
            lambda key: bert.init(key, config(kind, **changes), labels=labels),
            jax.random.key(0),
        )
        rng = np.random.default_rng(0)
        drawn = {
            path: 0.3 * rng.normal(size=leaf.shape)
            for path, leaf in tree.leaves(shapes).items()
        }
        return tree.replace(
            shapes,
            {p: jnp.float32(leaf + p.endswith("scale")) for p, leaf in drawn.items()},
        )

    return make


@pytest.fixture(scope="session")
def examples() -> data.Encoded:
    """32 examples of 3 to 16 tokens with labels 0, 1, 2 that only tell themselves by their tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 17, 32)
    offsets = np.concatenate([[0], lengths.cumsum()])
    tokens = rng.integers(2, 50, offsets[-1]).astype(np.int32)
    segments = np.concatenate([np.arange(n) > n // 2 for n in lengths]).astype(np.int32)
    return data.Encoded(
        tokens, segments, offsets, rng.integers(0, 3, 32).astype(np.int32)
    )


@pytest.fixture(scope="session")
def batch(examples) -> data.Batch:
    """The first 8 shuffled examples, 16 wide."""
    return next(data.batches(examples, size=8, widths=(16,), seed=0, pad=1))


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Whether two trees have the same structure, dtypes and bytes."""

    def same(a: Any, b: Any) -> bool:
        if jax.tree.structure(a) != jax.tree.structure(b):
            return False
        pairs = [
            (np.asarray(x), np.asarray(y))
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        ]
        return all(
            x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
            for x, y in pairs
        )

    return same
