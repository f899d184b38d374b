"""What all tests share: jax's settings, tiny models of random leaves, a tiny task.

Most of the suite's time is spent in the compiler, for programs that then run once, on a
few numbers. So tests are compiled with few optimizations, and the test processes share
what they compile. `XLA_FLAGS= pytest` compiles as users do; `JAX_COMPILATION_CACHE_DIR`
names a folder of compiled programs that is kept from one run to the next. The device is
the one that jax finds, or `JAX_PLATFORMS` names (docs/accelerators.md).
"""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, tree
from lora_jax.models import bert

# 44 instead of 56 processor seconds for the tests of training and generation. Add only
# flags that every release of XLA knows: it ends the process at one that it does not.
FEW_OPTIMIZATIONS = "--xla_backend_optimization_level=0"
CACHE = "JAX_COMPILATION_CACHE_DIR"

# Processes that tests start inherit the variables: the workers of xdist, and scripts.
# XLA reads its flags when the first array is made, jax its variables when imported.
os.environ.setdefault("XLA_FLAGS", FEW_OPTIMIZATIONS)
OWN_CACHE = None
if CACHE not in os.environ:
    OWN_CACHE = tempfile.mkdtemp(prefix="lora_jax-tests-")
    os.environ[CACHE] = OWN_CACHE
jax.config.update("jax_compilation_cache_dir", os.environ[CACHE])
# A test's thousands of single operations take 20 ms each: they are kept as well.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# How long an example takes is a matter of what else the machine does.
hypothesis.settings.register_profile("any_machine", deadline=None)
hypothesis.settings.load_profile("any_machine")

# Every training of the tests is spread over two devices.
jax.config.update("jax_num_cpu_devices", 2)

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


def pytest_unconfigure() -> None:
    """Remove the compiled programs, in the process that made their folder."""
    if OWN_CACHE is not None:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def config() -> Callable[..., bert.Config]:
    """`config(kind, **changes)`: a configuration of `TINY`, with changes."""

    def make(kind: str = "bert", **changes: Any) -> bert.Config:
        return bert.Config(**{"kind": kind, **TINY, **changes})

    return make


@pytest.fixture(scope="session")
def tiny(config) -> Callable[..., bert.Encoder]:
    """`tiny(kind, labels, **changes)`: a model of that configuration.

    Every leaf is normal with standard deviation 0.3, around 1 for scales of norms and
    around 0 for all others, so that no leaf can be left out unseen.
    """

    @functools.cache
    def make(kind: str = "bert", labels: int = 3, **changes: Any) -> bert.Encoder:
        def init(key: jax.Array) -> bert.Encoder:
            return bert.init(key, config(kind, **changes), labels=labels)

        shapes = jax.eval_shape(init, jax.random.key(0))
        rng = np.random.default_rng(0)
        values = {}
        for path, leaf in tree.leaves(shapes).items():
            mean = 1 if path.endswith("scale") else 0
            values[path] = jnp.float32(mean + 0.3 * rng.normal(size=leaf.shape))
        return tree.replace(shapes, values)

    return make


@pytest.fixture(scope="session")
def examples() -> data.Encoded:
    """32 examples of 3 to 16 tokens; only their tokens tell the labels 0, 1, 2 apart."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 17, 32)
    offsets = np.concatenate([[0], lengths.cumsum()])
    tokens = rng.integers(2, 50, offsets[-1]).astype(np.int32)
    # The second half of an example is its second text.
    halves = [np.arange(length) > length // 2 for length in lengths]
    segments = np.concatenate(halves).astype(np.int32)
    labels = rng.integers(0, 3, 32).astype(np.int32)
    return data.Encoded(tokens, segments, offsets, labels)


@pytest.fixture(scope="session")
def batch(examples) -> data.Batch:
    """The first 8 shuffled examples, 16 tokens wide."""
    return next(data.batches(examples, size=8, widths=(16,), seed=0, pad=1))


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Whether two trees have the same structure, dtypes, shapes and bytes."""

    def same_array(left: Any, right: Any) -> bool:
        left, right = np.asarray(left), np.asarray(right)
        same_type = left.dtype == right.dtype and left.shape == right.shape
        return same_type and left.tobytes() == right.tobytes()

    def same_tree(left: Any, right: Any) -> bool:
        if jax.tree.structure(left) != jax.tree.structure(right):
            return False
        pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
        return all(same_array(*pair) for pair in pairs)

    return same_tree
