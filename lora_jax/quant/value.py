"""One quantized matrix: blocks of consecutive numbers with a scale each, and codes.

NF4, double quantization and block sizes are those of QLoRA (arXiv 2305.14314, section 3
and appendix E). A quantized value is a pytree of the arrays that are really stored, so
it is stacked, scanned, sharded and saved as arrays are. Its shape, dtype and `.T` are
those of the matrix it stands for. Only `nn.dense.dense` and `nn.layers.Embedding`
compute with one.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from lora_jax import tree
from lora_jax.quant.equality import same_bits
from lora_jax.quant.formats import (
    CODECS,
    join_blocks,
    pack,
    pad_end,
    split_blocks,
    unpack,
)
from lora_jax.quant.scales import Scales, quantize_scales

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # numbers that may share a scale
# Largest magnitudes that a matrix may have, other than 0: far from both ends of float32.
SMALLEST = 1e-28
LARGEST = 1e28
STATIC = {"static": True}  # marks the fields that are no arrays


# A value has an equality of its own (`eq=False`): the one that Python would write for
# it compares arrays by `==`, whose truth value is ambiguous.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix, or a stack of matrices, in few bits.

    Blocks run along the rows of the stored matrix; no block spans two matrices of a
    stack. Two values are equal if all their bits and fields are.
    """

    codes: Any  # 4 bits: uint8 [..., ceil(n/2)], see `pack`; 8 bits: int8 [..., n]
    scales: Any  # [..., blocks], or `Scales`
    minima: Any  # [..., blocks], or None
    codec: str = field(metadata=STATIC)  # a name in `CODECS`
    block: int = field(metadata=STATIC)  # numbers that share a scale
    stored: tuple[int, int] = field(metadata=STATIC)  # shape of the stored matrix
    # Whether this value stands for the transpose of the stored matrix.
    transposed: bool = field(metadata=STATIC, default=False)
    # The dtype that `dequantize` returns.
    dtype: Any = field(metadata=STATIC, default=np.dtype("float32"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quantized):
            return NotImplemented
        return same_bits(self, other)

    def __hash__(self) -> int:
        return hash((self.codec, self.block, self.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrices this value stands for."""
        rows, columns = self.stored
        stack = self.codes.shape[:-1]
        if self.transposed:
            return (*stack, columns, rows)
        return (*stack, rows, columns)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of numbers this value stands for."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes that are stored."""
        return tree.nbytes(self)

    @property
    def T(self) -> "Quantized":
        """Each matrix transposed; no number is moved."""
        return replace(self, transposed=not self.transposed)

    def astype(self, dtype: Any) -> "Quantized":
        """Return the same bits, to be dequantized to another dtype."""
        return replace(self, dtype=np.dtype(dtype))

    def quantize_like(self, w: Any) -> "Quantized":
        """Return other matrices of this shape, quantized as this value is."""
        if self.transposed:
            w = w.swapaxes(-1, -2)
        value = encode_matrix(
            w,
            self.codec,
            self.block,
            double=isinstance(self.scales, Scales),
        )
        return replace(value, transposed=self.transposed)

    def dequantize(self) -> Float[Array, "... i o"]:
        """Return the matrices, computed in float32 and then cast to `dtype`."""
        rows, columns = self.stored
        scales = self._float_scales()
        numbers = self._decode(self.codes, scales, self.minima)

        # The last block may be longer than the matrix.
        numbers = numbers[..., : rows * columns]
        stack = numbers.shape[:-1]
        matrices = numbers.reshape(*stack, rows, columns)
        if self.transposed:
            matrices = jnp.swapaxes(matrices, -1, -2)
        return matrices.astype(self.dtype)

    def rows(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Return rows of a single matrix by their index.

        Where a row is a whole number of blocks, only these rows are dequantized.
        """
        row_count, row_size = self.stored
        if self.transposed or row_size % self.block:
            return self.dequantize()[index]

        # Codes, scales and minima lie row by row, in the order of the numbers.
        def select_rows(stored):
            by_row = stored.reshape(row_count, -1)
            return by_row[index].reshape(-1)

        codes = select_rows(self.codes)
        scales = select_rows(self._float_scales())
        minima = None
        if self.minima is not None:
            minima = select_rows(self.minima)
        numbers = self._decode(codes, scales, minima)
        rows = numbers.reshape(*index.shape, row_size)
        return rows.astype(self.dtype)

    def _float_scales(self) -> Array:
        if isinstance(self.scales, Scales):
            return self.scales.dequantize()
        return self.scales.astype(jnp.float32)

    def _decode(self, codes, scales, minima) -> Float[Array, "... blocks*block"]:
        """Return the numbers of the blocks; what the last block lacks is made up."""
        codec = CODECS[self.codec]
        if codec.bits == 4:
            codes = unpack(codes)
        numbers = codec.decode(codes)

        # The codes end where the matrix does, perhaps within the last block.
        block_count = scales.shape[-1]
        missing = block_count * self.block - numbers.shape[-1]
        if missing:
            numbers = pad_end(numbers, missing)

        blocks = split_blocks(numbers, self.block)
        blocks = blocks * scales[..., None]
        if minima is not None:
            wide_minima = minima.astype(jnp.float32)
            blocks = blocks + wide_minima[..., None]
        return join_blocks(blocks)


def is_quantized(node: Any) -> bool:
    """Return whether a node of a tree is a quantized value."""
    return isinstance(node, Quantized)


def quantize(
    w: Any,
    codec: str,
    *,
    block: int | None = None,
    double: bool = False,
) -> Quantized:
    """Return a matrix [a, b], or a stack of them, in few bits.

    Blocks run along the rows. bitsandbytes quantizes a torch weight [out, in]; of our
    kernel [in, out] the same bits are those of `quantize(kernel.T, ...).T`.

    Args:
        w: the matrix, or the stack of matrices with leading axes.
        codec: a name in `CODECS`.
        block: how many numbers share a scale: a power of two from 32 to 4096. The
            default is 64, and for int8 a row.
        double: quantize the scales too (QLoRA, section 3).

    Raises:
        ValueError: an argument is out of its range, `w` is not a matrix of floats, or
            some of its numbers are NaN or infinite, or too large or all too small for
            scales in float32.
    """
    if codec not in CODECS:
        names = ", ".join(CODECS)
        raise ValueError(f"codec: expected one of {names}, got {codec!r}")
    _check_block(block)
    _check_matrix(w)
    if block is None:
        is_8_bit = CODECS[codec].bits == 8
        block = w.shape[-1] if is_8_bit else 64
    return encode_matrix(w, codec, block, double)


def _check_block(block: int | None) -> None:
    if block is None:
        return
    # True and 64.0 are no block sizes, though they may equal one.
    if not isinstance(block, int) or block not in BLOCKS:
        raise ValueError(
            f"block: expected a power of two from {BLOCKS[0]} to {BLOCKS[-1]}, "
            f"got {block!r}"
        )


def _check_matrix(w: Any) -> None:
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


@jax.jit(static_argnames=("codec", "block", "double"))
def encode_matrix(w, codec, block, double):
    """Return what `quantize` returns, without its checks and defaults."""
    *stack, rows, columns = w.shape
    count = rows * columns
    wide = w.astype(jnp.float32)
    numbers = wide.reshape(*stack, count)

    # A last block that is not full is filled with its own last number, which changes
    # neither its largest nor its smallest.
    numbers = pad_end(numbers, -count % block, mode="edge")
    blocks = split_blocks(numbers, block)
    scales, minima, codes = CODECS[codec].encode(blocks)

    codes = join_blocks(codes)[..., :count]
    if CODECS[codec].bits == 4:
        codes = pack(codes, CODECS[codec].filler)
    if double:
        scales = quantize_scales(scales)
    return Quantized(
        codes,
        scales,
        minima,
        codec=codec,
        block=block,
        stored=(rows, columns),
        dtype=np.dtype(w.dtype),
    )
