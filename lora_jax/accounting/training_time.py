"""How long a training would take."""

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import tree

# What padding, attention, norms and compilation add; bfloat16 products take some of it away. As measured on two CPU cores.
OVERHEAD = {"float32": 1.5, "bfloat16": 1.0}


def seconds(
    model: Any, tokens: Mapping[str, int], epochs: int, compute_dtype: str
) -> float:
    """Roughly, to train on tokens["train"], choose the epoch on validation and score the other splits, on this machine.

    Counts 4 operations a matrix element and token trained on, 2 evaluated, at the speed of a float32 product measured here.
    """
    matrices = sum(
        leaf.size
        for path, leaf in tree.leaves(model.blocks).items()
        if path.endswith("kernel")
    )
    often = {"train": 4 * epochs, "validation": 2 * epochs}
    operations = matrices * sum(
        often.get(split, 2) * count for split, count in tokens.items()
    )
    return OVERHEAD[compute_dtype] * operations / _speed()


@lru_cache(maxsize=1)
def _speed() -> float:
    """Operations a second of a float32 matrix product of the usual size."""
    x, w = jnp.ones((2048, 768)), jnp.ones((768, 768))
    product = jax.jit(jnp.matmul)
    product(x, w).block_until_ready()
    took = []
    for _ in range(20):
        began = time.perf_counter()
        product(x, w).block_until_ready()
        took.append(time.perf_counter() - began)
    return (
        2 * 2048 * 768 * 768 / min(took)
    )  # the least: what else runs on the machine only adds
