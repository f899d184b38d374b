"""Codecs: how a block of numbers becomes a scale and codes, and codes numbers again.

NF4 and double quantization are those of QLoRA (arXiv 2305.14314, section 3 and appendix
E). FP4 and the 8-bit table are those of bitsandbytes, and so is the rounding: NF4 and
FP4 codes have the same bits as there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Codec(NamedTuple):
    """How the numbers of a block are encoded and decoded.

    `encode` takes blocks [..., N, block] and returns scales [..., N], minima [..., N]
    or None, and codes [..., N, block]. `decode` takes codes and returns numbers in
    units of their block's scale, counted from its minimum if there are minima.
    """

    bits: int  # of a code
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    filler: int = 0  # the code that completes the last byte of an odd number of codes


# Formats whose codes index a table of numbers in [-1, 1]

NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)

# One bit of sign, two of exponent, one of mantissa; in units of 1/12.
_FP4_POSITIVE = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32)
_FP4_NEGATIVE = np.array([0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32)
FP4 = np.concatenate([_FP4_POSITIVE, _FP4_NEGATIVE]) / 12  # two of its codes mean 0


def _dynamic_table() -> np.ndarray:
    """Return bitsandbytes' signed 8-bit floats: 256 numbers in order, with 0 and 1.

    There are seven decades. Each is cut into equal intervals, twice as many as the
    decade below has, and a number of the table is the middle of an interval.
    """
    numbers = [np.float32(0), np.float32(1)]
    for decade in range(7):
        edges = _torch_linspace(2**decade)
        sums = edges[:-1] + edges[1:]
        middles = sums / np.float32(2)
        factor = np.float32(10.0 ** (decade - 6))
        magnitudes = middles * factor
        numbers.extend(magnitudes)
        numbers.extend(-magnitudes)
    table = np.array(numbers, np.float32)
    return np.sort(table)


def _torch_linspace(intervals: int) -> np.ndarray:
    """Return `torch.linspace(0.1, 1, intervals + 1)`, to the bit."""
    start = np.float32(0.1)
    stop = np.float32(1)
    step = (stop - start) / np.float32(intervals)

    # torch takes the step in float32, counts from the nearer end and rounds once.
    index = np.arange(intervals + 1)
    steps = np.float64(step) * index
    from_start = start + steps
    from_stop = 1 - steps[::-1]
    is_first_half = index < len(index) // 2
    numbers = np.where(is_first_half, from_start, from_stop)
    return numbers.astype(np.float32)


DYNAMIC = _dynamic_table()  # what double quantization rounds the scales to


def nearest_encoder(table: np.ndarray) -> Callable[[Any], tuple[Any, Any]]:
    """Return a function from blocks [..., N, block] to scales [..., N] and codes.

    A block's scale is its largest magnitude; a number's code is that of the table's
    entry nearest to the number divided by the scale.
    """
    order = np.argsort(table, kind="stable")
    order = order.astype(np.uint8)
    sorted_table = table[order]
    sums = sorted_table[:-1] + sorted_table[1:]
    boundaries = sums / np.float32(2)
    smallest = jnp.finfo(jnp.float32).tiny

    def encode(blocks):
        scales = _largest_magnitude(blocks)
        # Multiply by the reciprocal, as bitsandbytes does: a division rounds
        # differently. Its lower bound of a scale, 1e-38, is subnormal: XLA may take it
        # as 0, and a block of zeros would become NaN.
        reciprocals = 1 / jnp.maximum(scales, smallest)
        scaled = blocks * reciprocals[..., None]
        scaled = jnp.clip(scaled, -1, 1)
        ranks = jnp.searchsorted(
            boundaries,
            scaled,
            side="left",
            method="compare_all",
        )
        codes = jnp.asarray(order)[ranks]
        return scales, codes

    return encode


def _largest_magnitude(blocks):
    return jnp.abs(blocks).max(-1)


def _table_codec(table: np.ndarray) -> Codec:
    encode_nearest = nearest_encoder(table)

    def encode(blocks):
        scales, codes = encode_nearest(blocks)
        return scales, None, codes

    def decode(codes):
        return jnp.asarray(table)[codes]

    codes_of_zero = np.flatnonzero(table == 0)
    return Codec(
        bits=4,
        encode=encode,
        decode=decode,
        filler=int(codes_of_zero[0]),  # as bitsandbytes fills its last byte
    )


# Formats whose codes are integers, evenly spaced


def _encode_int4(blocks):
    scales = _largest_magnitude(blocks) / 7
    steps = _count_steps(blocks, scales)  # -7 .. 7
    codes = (steps + 8).astype(jnp.uint8)
    return scales, None, codes


def _decode_int4(codes):
    return codes.astype(jnp.float32) - 8


def _encode_int4_affine(blocks):
    minima = blocks.min(-1)
    ranges = blocks.max(-1) - minima
    scales = ranges / 15
    above_minimum = blocks - minima[..., None]
    steps = _count_steps(above_minimum, scales)  # 0 .. 15
    codes = steps.astype(jnp.uint8)
    return scales, minima, codes


def _encode_int8(blocks):
    scales = _largest_magnitude(blocks) / 127
    steps = _count_steps(blocks, scales)  # -127 .. 127
    codes = steps.astype(jnp.int8)
    return scales, None, codes


def _decode_plain(codes):
    return codes.astype(jnp.float32)


def _count_steps(blocks, scales):
    # The scale of a block of zeros is 0, and its numbers stay 0.
    divisors = jnp.where(scales > 0, scales, 1)
    quotients = blocks / divisors[..., None]
    return jnp.round(quotients)


CODECS = {
    "nf4": _table_codec(NF4),
    "fp4": _table_codec(FP4),
    "int4": Codec(4, _encode_int4, _decode_int4),
    "int4_affine": Codec(4, _encode_int4_affine, _decode_plain),
    "int8": Codec(8, _encode_int8, _decode_plain),
}
