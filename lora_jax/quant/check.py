"""What can be quantized: the sizes of blocks, and matrices whose scales are numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # numbers that may share a scale
# Largest magnitudes that a matrix may have, other than 0: far from both ends of float32.
SMALLEST = 1e-28
LARGEST = 1e28


def check_block(block: int | None) -> None:
    """Raise a ValueError unless so many numbers may share a scale, or None."""
    if block is None:
        return
    # True and 64.0 are no block sizes, though they may equal one.
    if not isinstance(block, int) or block not in BLOCKS:
        raise ValueError(
            f"block: expected a power of two from {BLOCKS[0]} to {BLOCKS[-1]}, "
            f"got {block!r}"
        )


def check_matrix(w: Any) -> None:
    """Raise a ValueError unless the matrix, or the stack, can be quantized."""
    is_float = jnp.issubdtype(w.dtype, jnp.floating)
    if w.ndim < 2 or w.size == 0 or not is_float:
        raise ValueError(
            "expected a matrix of floating-point numbers, got "
            f"{w.dtype} {tuple(w.shape)}"
        )
    if isinstance(w, Tracer):
        return  # its numbers are not known yet
    is_bad = ~jnp.isfinite(w)
    bad_count = int(is_bad.sum())
    if bad_count:
        raise ValueError(
            f"expected finite weights, got {bad_count} that are NaN or infinite"
        )
    # Beyond these bounds a scale, its reciprocal or the mean of all scales overflows, or
    # is so small that processors take it as 0.
    largest = float(jnp.abs(w).max())
    if largest == 0:
        # XLA takes subnormal numbers as 0; numpy does not.
        largest = float(np.abs(np.asarray(w)).max())
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise ValueError(
            "expected weights whose largest magnitude is 0 or in "
            f"{SMALLEST:g} … {LARGEST:g}, got {largest:g}"
        )
