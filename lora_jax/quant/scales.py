"""Double quantization: the scales of a matrix in 8 bits (QLoRA, section 3)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from lora_jax.quant.equality import same_bits
from lora_jax.quant.formats import DYNAMIC, nearest_encoder
from lora_jax.quant.packing import join_blocks, pad_end, split_blocks

NESTED = 256  # scales that share a scale of their own


# `eq=False`, as for `Quantized`: there is an equality of its own.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Scales:
    """Scales in 8 bits.

    A code stands for a scale's distance from the mean of all scales of its matrix; 256
    distances share a scale. Two of these are equal if all their bits are.
    """

    codes: Any  # uint8 [..., N]
    scales: Any  # float32 [..., ceil(N / 256)]
    offset: Any  # float32 [...], the mean

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scales):
            return NotImplemented
        return same_bits(self, other)

    def __hash__(self) -> int:
        return hash(np.shape(self.codes))

    def dequantize(self) -> Float[Array, "... N"]:
        """Return the scales, in float32."""
        count = self.codes.shape[-1]
        repeated = jnp.repeat(self.scales, NESTED, axis=-1)
        # The last of the nested blocks may be longer than the scales are many.
        distances = _look_up(self.codes) * repeated[..., :count]
        return distances + self.offset[..., None]


def _look_up(codes: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Return the numbers of `DYNAMIC` that the codes stand for."""
    # A TPU reads 4 kB for each number that it looks up by index.
    return jax.lax.platform_dependent(codes, tpu=look_up_by_product, default=look_up)


def look_up(codes: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Return the numbers by their index in the table."""
    return jnp.asarray(DYNAMIC)[codes]


def look_up_by_product(codes: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Return the same numbers, as products of the table with rows of one 1."""
    rows = jax.nn.one_hot(codes, len(DYNAMIC), dtype=jnp.float32)
    # In full precision the product is exact, since all other terms are 0.
    return jnp.dot(rows, jnp.asarray(DYNAMIC), precision="highest")


def quantize_scales(scales: Float[Array, "... N"]) -> Scales:
    """Return the scales of a matrix, or of each of a stack, in 8 bits."""
    count = scales.shape[-1]
    mean = scales.mean(-1)
    distances = scales - mean[..., None]

    # A last block that is not full is filled with zeros: distances of no scale.
    distances = pad_end(distances, -count % NESTED)
    blocks = split_blocks(distances, NESTED)
    encode = nearest_encoder(DYNAMIC)
    nested_scales, codes = encode(blocks)
    codes = join_blocks(codes)
    return Scales(codes[..., :count], nested_scales, mean)
