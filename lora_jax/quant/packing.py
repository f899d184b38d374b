"""How numbers lie in memory: in blocks of consecutive ones, two 4-bit codes a byte.

The two codes are half a matrix apart. Of two neighbors, as the bytes of bitsandbytes
and of GGUF have them, unpacking makes an axis of length 2, which a TPU pads to 128: one
matrix of 4,096 x 11,008 is dequantized through 11.7 GB there, and with halves through
0.2 GB.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8


def pad_end(numbers: Any, count: int, **options: Any) -> Any:
    """Return the array with `count` more numbers on its last axis (see `jnp.pad`)."""
    # (before, after) for each axis
    padding = [(0, 0)] * numbers.ndim
    padding[-1] = (0, count)
    return jnp.pad(numbers, padding, **options)


def split_blocks(numbers: Any, block: int) -> Any:
    """Return numbers [..., N * block] as blocks [..., N, block]."""
    stack = numbers.shape[:-1]
    return numbers.reshape(*stack, -1, block)


def join_blocks(blocks: Any) -> Any:
    """Return blocks [..., N, block] as numbers [..., N * block]."""
    stack = blocks.shape[:-2]
    return blocks.reshape(*stack, -1)


def pack(
    codes: UInt8[Array, "... n"],
    filler: int = 0,
) -> UInt8[Array, "... ceil(n/2)"]:
    """Return bytes of two 4-bit codes: the first half of them in the high bits.

    `filler` completes the last byte of an odd number of codes.
    """
    count = codes.shape[-1]
    codes = pad_end(codes, count % 2, constant_values=filler)
    high, low = jnp.split(codes, 2, axis=-1)
    return high << 4 | low


def unpack(packed: UInt8[Array, "..."], axis: int = -1) -> UInt8[Array, "..."]:
    """Return the 4-bit codes of the bytes, in their order; a filler is one of them.

    That axis of the bytes becomes twice as long. It may also be the rows, an even
    number of them, of bytes that are reshaped to half as many.
    """
    high = packed >> 4
    low = packed & 15
    return jnp.concatenate([high, low], axis)


# Files have two neighboring codes in a byte, the first of them in the high bits.


def neighbors_to_halves(packed: Any) -> np.ndarray:
    """Return the bytes [..., m] of a file as `pack` makes them. A filler stays last."""
    packed = np.asarray(packed)
    *stack, half = packed.shape
    codes = np.empty((*stack, 2 * half), np.uint8)
    codes[..., ::2] = packed >> 4
    codes[..., 1::2] = packed & 15
    # In place, as a matrix may be large.
    halves = codes[..., :half] << 4
    halves |= codes[..., half:]
    return halves


def halves_to_neighbors(packed: Any) -> np.ndarray:
    """Return the bytes [..., m] that `pack` makes as a file has them."""
    packed = np.asarray(packed)
    codes = np.concatenate([packed >> 4, packed & 15], axis=-1)
    return codes[..., ::2] << 4 | codes[..., 1::2]


def packed_rows(
    packed: UInt8[Array, " m"], stored: tuple[int, int], index: Int[Array, "..."]
) -> UInt8[Array, "... D"]:
    """Return rows of the codes of a matrix, by their index in its shape `stored`."""
    row_count, row_size = stored
    if row_count % 2 == 0:
        # A row of bytes holds two rows of codes.
        by_row = packed.reshape(-1, row_size)
        selected = by_row[index % len(by_row)]
        is_high = (index < len(by_row))[..., None]
    else:
        # The first half ends within a row.
        position = index[..., None] * row_size + jnp.arange(row_size)
        selected = packed[position % len(packed)]
        is_high = position < len(packed)
    return jnp.where(is_high, selected >> 4, selected & 15)
