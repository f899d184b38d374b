"""The data types: how the numbers of a block become a scale and codes, and codes numbers again.

NF4 and double quantisation: QLoRA (arXiv 2305.14314, section 3, appendix E). FP4 and the 8-bit map are bitsandbytes', and so are
the roundings: codes of NF4 and FP4 are the same bits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8


class Codec(NamedTuple):
    """A data type: how a block's numbers become scale and codes, and codes numbers again.

    `encode` takes blocks [..., N, block] and gives (scales [..., N], minima or None, codes); `decode` gives a code's number in
    units of its scale, counted from the minimum if there is one.
    """

    bits: int
    encode: Callable[[Any], tuple[Any, Any, Any]]
    decode: Callable[[Any], Any]
    filler: int = 0  # the code that fills an odd end


def pack(
    codes: UInt8[Array, "... n"], filler: int = 0
) -> UInt8[Array, "... ceil(n/2)"]:
    """Two 4-bit codes in a byte, the first in the high bits; an odd end is filled."""
    codes = jnp.pad(
        codes,
        [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)],
        constant_values=filler,
    )
    return codes[..., ::2] << 4 | codes[..., 1::2]


def unpack(packed: UInt8[Array, "... m"]) -> UInt8[Array, "... 2*m"]:
    """The codes in order."""
    halves = packed[..., None] >> jnp.array([4, 0], jnp.uint8) & 15
    return halves.reshape(*packed.shape[:-1], -1)


def _dynamic() -> np.ndarray:
    """bitsandbytes' signed 8-bit floats: seven decades, each cut evenly, twice as fine as the one below; 0 and 1 (256, sorted)."""
    found = [np.float32(0), np.float32(1)]
    for i in range(7):
        # torch.linspace to the bit: counted from the nearer end in float32 steps, rounded once.
        up, step = (
            np.arange(2**i + 1),
            (np.float32(1) - np.float32(0.1)) / np.float32(2**i),
        )
        near, far = (
            np.float32(0.1) + np.float64(step) * up,
            1 - np.float64(step) * up[::-1],
        )
        edges = np.where(up < len(up) // 2, near, far).astype(np.float32)
        means = (edges[:-1] + edges[1:]) / np.float32(2) * np.float32(10.0 ** (i - 6))
        found += [*means, *-means]
    return np.sort(np.array(found, np.float32))


DYNAMIC = _dynamic()

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
FP4 = (
    np.array(
        [0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], np.float32
    )
    / 12
)  # 0 twice


def nearest(table: np.ndarray) -> Callable[[Any], tuple[Any, Any]]:
    """Blocks -> their largest magnitudes, and the code of the nearest table entry of each number divided by its block's."""
    order = np.argsort(table, kind="stable").astype(np.uint8)
    ordered = table[order]
    between = (ordered[:-1] + ordered[1:]) / np.float32(2)

    def encode(blocks):
        most = jnp.abs(blocks).max(-1)
        # The reciprocal, as in bitsandbytes: a division would round differently. Its bound there, 1e-38, is subnormal: XLA may
        # take it as 0, and a block of zeros would become NaN.
        scaled = jnp.clip(
            blocks * (1 / jnp.maximum(most, jnp.finfo(jnp.float32).tiny))[..., None],
            -1,
            1,
        )
        index = jnp.searchsorted(between, scaled, side="left", method="compare_all")
        return most, jnp.asarray(order)[index]

    return encode


def _table(table: np.ndarray) -> Codec:
    encode = nearest(table)

    def with_no_minima(blocks):
        most, codes = encode(blocks)
        return most, None, codes

    zero = int(np.flatnonzero(table == 0)[0])  # bitsandbytes' filler
    return Codec(4, with_no_minima, lambda codes: jnp.asarray(table)[codes], zero)


def _steps(blocks, scale):
    """Numbers in units of their block's scale; a block of zeros stays one."""
    return jnp.round(blocks / jnp.where(scale > 0, scale, 1)[..., None])


def _encode_int4(blocks):
    scale = jnp.abs(blocks).max(-1) / 7
    return scale, None, (_steps(blocks, scale) + 8).astype(jnp.uint8)


def _encode_int4_affine(blocks):
    least = blocks.min(-1)
    scale = (blocks.max(-1) - least) / 15
    return scale, least, _steps(blocks - least[..., None], scale).astype(jnp.uint8)


def _encode_int8(blocks):
    scale = jnp.abs(blocks).max(-1) / 127
    return scale, None, _steps(blocks, scale).astype(jnp.int8)


CODECS = {
    "nf4": _table(NF4),
    "fp4": _table(FP4),
    "int4": Codec(4, _encode_int4, lambda codes: codes.astype(jnp.float32) - 8),
    "int4_affine": Codec(
        4, _encode_int4_affine, lambda codes: codes.astype(jnp.float32)
    ),
    "int8": Codec(8, _encode_int8, lambda codes: codes.astype(jnp.float32)),
}
