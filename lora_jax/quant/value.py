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
from jaxtyping import Array, Float, Int

from lora_jax import tree
from lora_jax.quant.check import check_block, check_matrix
from lora_jax.quant.equality import same_bits
from lora_jax.quant.formats import CODECS
from lora_jax.quant.packing import (
    join_blocks,
    pack,
    packed_rows,
    pad_end,
    split_blocks,
    unpack,
)
from lora_jax.quant.scales import Scales, quantize_scales

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
        stack = self._stack
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
        numbers = self._decode(
            self._code_blocks(),
            self._by_block(self._float_scales()),
            self._by_block(self.minima),
        )
        numbers = numbers.reshape(*self._stack, -1)

        # The last block may be longer than the matrix.
        numbers = numbers[..., : rows * columns]
        matrices = numbers.reshape(*self._stack, rows, columns)
        if self.transposed:
            matrices = jnp.swapaxes(matrices, -1, -2)
        return matrices.astype(self.dtype)

    def rows(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Return rows of a single matrix by their index.

        Where a row is a whole number of blocks, only these rows are dequantized.
        """
        _, row_size = self.stored
        if self.transposed or row_size % self.block:
            return self.dequantize()[index]

        minima = self._by_block(self.minima)
        if minima is not None:
            minima = minima[index]
        scales = self._by_block(self._float_scales())
        codes = split_blocks(self._code_rows(index), self.block)
        numbers = self._decode(codes, scales[index], minima)
        return join_blocks(numbers).astype(self.dtype)

    def reorder_rows(self, order: np.ndarray) -> "Quantized":
        """Return a single matrix with its stored rows in another order, as numpy arrays.

        A block must not span two rows, and the scales must not be quantized.
        """

        def reorder(part):
            by_row = np.asarray(part).reshape(len(order), -1)
            return by_row[order].reshape(part.shape)

        reordered = jax.tree.map(reorder, replace(self, codes=self._unpacked()))
        if self._bits == 8:
            return reordered
        packed = np.asarray(pack(reordered.codes))
        return replace(reordered, codes=packed)

    def _unpacked(self) -> Any:
        """The codes in the order of the numbers, perhaps with a filler at the end."""
        return unpack(self.codes) if self._bits == 4 else self.codes

    def _code_rows(self, index: Int[Array, "..."]) -> Int[Array, "... D"]:
        """Return rows of the codes of a single matrix."""
        if self._bits == 8:
            return self.codes.reshape(self.stored)[index]
        return packed_rows(self.codes, self.stored, index)

    def _code_blocks(self) -> Any:
        """The codes by block; what the last block lacks is made up."""
        rows, columns = self.stored
        row_blocks, remainder = divmod(columns, self.block)
        # The two codes of a byte are half the rows apart. A TPU unpacks them through a
        # fifth of the memory if it never sees them in one row.
        if self._bits == 4 and rows % 2 == 0 and remainder == 0:
            shape = *self._stack, rows // 2, row_blocks, self.block
            return unpack(self.codes.reshape(shape), axis=-3)
        codes = self._unpacked()[..., : rows * columns]
        codes = pad_end(codes, -codes.shape[-1] % self.block)
        return self._by_block(split_blocks(codes, self.block))

    def _by_block(self, values: Any) -> Any:
        """Return values [..., blocks, ...] as [..., rows, blocks of a row, ...].

        They are returned as they are where a block spans two rows, and where they are
        None.
        """
        rows, columns = self.stored
        if values is None or columns % self.block:
            return values
        axis = len(self._stack)
        shape = values.shape
        return values.reshape(*shape[:axis], rows, -1, *shape[axis + 1 :])

    @property
    def _stack(self) -> tuple[int, ...]:
        return self.codes.shape[:-1]

    @property
    def _bits(self) -> int:
        return CODECS[self.codec].bits

    def _float_scales(self) -> Array:
        if isinstance(self.scales, Scales):
            return self.scales.dequantize()
        return self.scales.astype(jnp.float32)

    def _decode(
        self,
        codes: Int[Array, "... block"],
        scales: Float[Array, "..."],
        minima: Float[Array, "..."] | None,
    ) -> Float[Array, "... block"]:
        blocks = CODECS[self.codec].decode(codes)
        blocks = blocks * scales[..., None]
        if minima is not None:
            wide_minima = minima.astype(jnp.float32)
            blocks = blocks + wide_minima[..., None]
        return blocks


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
    check_block(block)
    check_matrix(w)
    if block is None:
        is_8_bit = CODECS[codec].bits == 8
        block = w.shape[-1] if is_8_bit else 64
    return encode_matrix(w, codec, block, double)


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
