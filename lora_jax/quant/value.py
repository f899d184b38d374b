"""Frozen weights in 4 or 8 bits: consecutive numbers form blocks, a block has one scale, each number is a code.

NF4, double quantisation and block sizes: QLoRA (arXiv 2305.14314, section 3, appendix E). NF4 and FP4 have bitsandbytes' bits. A
quantised value is a pytree of the arrays that are really stored, so it stacks, scans, shards and saves as arrays do; shape,
dtype and `.T` are those of the matrix it stands for. Only `nn.dense.dense` and `nn.layers.Embedding` compute with one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from lora_jax import tree
from lora_jax.quant.formats import CODECS, DYNAMIC, nearest, pack, unpack

BLOCKS = tuple(2**k for k in range(5, 13))  # sizes a block may have
NESTED = 256  # scales that share a scale of their own in double quantisation


def _same_bits(a: Any, b: Any) -> bool:
    """Return whether two values of one type have the same fields, bit for bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(_same_leaf(x, y) for x, y in pairs)


def _same_leaf(x: Any, y: Any) -> bool:
    if x is y:
        return True
    arrays = (np.ndarray, jax.Array)
    if not (isinstance(x, arrays) and isinstance(y, arrays)):
        return bool(x == y)  # shapes, and whatever else a transform puts into a tree
    if (x.dtype, x.shape) != (y.dtype, y.shape):
        return False
    return np.asarray(x).tobytes() == np.asarray(y).tobytes()


# Equality is written out: that of a dataclass compares arrays, whose truth is ambiguous
# (from Python 3.13 on; before, it was asked for only if the arrays were not the same).


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Scales:
    """Scales in 8 bits (double quantisation): codes of their distance to the mean, in blocks of 256."""

    codes: Any  # uint8 [..., N]
    scales: Any  # [..., n]
    offset: Any  # [...], the mean

    def dequantize(self) -> Float[Array, "... N"]:
        """The scales, in float32."""
        each = jnp.repeat(self.scales, NESTED, axis=-1)[..., : self.codes.shape[-1]]
        return jnp.asarray(DYNAMIC)[self.codes] * each + self.offset[..., None]

    def __eq__(self, other: object) -> bool:
        return _same_bits(self, other) if isinstance(other, Scales) else NotImplemented

    def __hash__(self) -> int:
        return hash(np.shape(self.codes))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quantized:
    """A matrix, or a stack of them, in few bits. Blocks run along the rows of `stored`, never from one matrix to the next."""

    codes: Any  # uint8 [..., ceil(n/2)], the first of two codes in the high bits; of 8-bit kinds int8 [..., n]
    scales: Any  # [..., blocks], or Scales
    minima: Any  # [..., blocks], or None
    codec: str = field(metadata={"static": True})
    block: int = field(metadata={"static": True})
    stored: tuple[int, int] = field(
        metadata={"static": True}
    )  # the matrix that was quantised
    transposed: bool = field(
        metadata={"static": True}, default=False
    )  # and whether this value is its transpose
    dtype: Any = field(
        metadata={"static": True}, default=np.dtype("float32")
    )  # that `dequantize` gives

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quantized):
            return NotImplemented
        return _same_bits(self, other)

    def __hash__(self) -> int:
        return hash((self.codec, self.block, self.stored, self.transposed, self.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrices this stands for."""
        return (
            *self.codes.shape[:-1],
            *(self.stored[::-1] if self.transposed else self.stored),
        )

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Numbers it stands for."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes that are stored."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    @property
    def T(self) -> "Quantized":
        """Each matrix transposed; nothing is moved."""
        return replace(self, transposed=not self.transposed)

    def quantize_like(self, w: Any) -> "Quantized":
        """Other matrices of this shape quantised as this one is."""
        stored = w.swapaxes(-1, -2) if self.transposed else w
        made = _quantize(
            stored, self.codec, self.block, isinstance(self.scales, Scales)
        )
        return replace(made, transposed=self.transposed)

    def astype(self, dtype: Any) -> "Quantized":
        """The same bits, to be dequantised to another dtype."""
        return replace(self, dtype=np.dtype(dtype))

    def dequantize(self) -> Float[Array, "... i o"]:
        """The matrices: computed in float32, then cast."""
        numbers = self._numbers(self.codes, self._scales(), self.minima)[
            ..., : self.stored[0] * self.stored[1]
        ]
        matrices = numbers.reshape(*self.codes.shape[:-1], *self.stored)
        return (jnp.swapaxes(matrices, -1, -2) if self.transposed else matrices).astype(
            self.dtype
        )

    def rows(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Rows of a single matrix; where they are whole blocks, nothing but them is dequantised."""
        each = self.stored[1] // self.block
        if self.transposed or self.stored[1] % self.block:
            return self.dequantize()[index]

        def cut(leaf):
            return (
                None
                if leaf is None
                else leaf.reshape(self.stored[0], -1)[index].reshape(-1)
            )

        scales = self._scales().reshape(-1, each)[index].reshape(-1)
        numbers = self._numbers(cut(self.codes), scales, cut(self.minima))
        return numbers.reshape(*index.shape, self.stored[1]).astype(self.dtype)

    def _scales(self) -> Array:
        return (
            self.scales.dequantize()
            if isinstance(self.scales, Scales)
            else self.scales.astype(jnp.float32)
        )

    def _numbers(self, codes, scales, minima) -> Array:
        """The numbers of whole blocks in a row; what a last block lacks is made up."""
        codec, lead = CODECS[self.codec], codes.shape[:-1]
        numbers = codec.decode(unpack(codes) if codec.bits == 4 else codes)
        lacking = scales.shape[-1] * self.block - numbers.shape[-1]
        numbers = (
            jnp.pad(numbers, [(0, 0)] * len(lead) + [(0, lacking)])
            if lacking
            else numbers
        )
        numbers = numbers.reshape(*lead, -1, self.block) * scales[..., None]
        if minima is not None:
            numbers = numbers + minima[..., None].astype(jnp.float32)
        return numbers.reshape(*lead, -1)


def quantize(
    w: Any, codec: str, *, block: int | None = None, double: bool = False
) -> Quantized:
    """A matrix [a, b] or a stack of them in few bits; blocks run along its rows.

    bitsandbytes quantises a torch weight [out, in]: of our kernel [in, out] that is `quantize(kernel.T, ...).T`.

    Args:
        codec: one of `CODECS`.
        block: numbers that share a scale, a power of two from 32 to 4096; by default 64, for int8 a row.
        double: quantise the scales too (QLoRA, section 3).

    Raises:
        ValueError: an option outside its range, not a matrix of floats, or NaN or infinite numbers.
    """
    if codec not in CODECS:
        raise ValueError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
    if block is not None and (block not in BLOCKS or not isinstance(block, int)):
        raise ValueError(
            f"block: expected a power of two from {BLOCKS[0]} to {BLOCKS[-1]}, got {block!r}"
        )
    if w.ndim < 2 or not jnp.issubdtype(w.dtype, jnp.floating) or not w.size:
        raise ValueError(
            f"expected a matrix of floating-point numbers, got {w.dtype} {tuple(w.shape)}"
        )
    if not isinstance(w, Tracer) and not bool(jnp.isfinite(w).all()):
        raise ValueError(
            f"expected finite weights, got {int((~jnp.isfinite(w)).sum())} that are NaN or infinite"
        )
    return _quantize(
        w, codec, block or (w.shape[-1] if CODECS[codec].bits == 8 else 64), double
    )


@jax.jit(static_argnames=("codec", "block", "double"))
def _quantize(w, codec, block, double):
    *lead, a, b = w.shape
    numbers = w.astype(jnp.float32).reshape(*lead, a * b)
    # A last block that is not full is filled with its own last number, which changes neither extreme.
    numbers = jnp.pad(
        numbers, [(0, 0)] * len(lead) + [(0, -(a * b) % block)], mode="edge"
    )
    scales, minima, codes = CODECS[codec].encode(numbers.reshape(*lead, -1, block))
    codes = codes.reshape(*lead, -1)[..., : a * b]
    return Quantized(
        pack(codes, CODECS[codec].filler) if CODECS[codec].bits == 4 else codes,
        _quantize_scales(scales) if double else scales,
        minima,
        codec,
        block,
        (a, b),
        dtype=np.dtype(w.dtype),
    )


def _quantize_scales(scales: Float[Array, "... N"]) -> Scales:
    offset = scales.mean(-1)
    distance = scales - offset[..., None]
    same = [(0, 0)] * (scales.ndim - 1)
    blocks = jnp.pad(distance, [*same, (0, -scales.shape[-1] % NESTED)]).reshape(
        *distance.shape[:-1], -1, NESTED
    )
    most, codes = nearest(DYNAMIC)(blocks)
    return Scales(
        codes.reshape(*distance.shape[:-1], -1)[..., : scales.shape[-1]], most, offset
    )


def check_finite(scales: np.ndarray, name: str) -> np.ndarray:
    """The scales, as a file has them. Raises ValueError with their name if some are NaN or infinite."""
    if bad := int((~np.isfinite(scales)).sum()):
        raise ValueError(
            f"{name}: expected finite scales, got {bad} that are NaN or infinite"
        )
    return scales


def is_quantized(node: Any) -> bool:
    """Whether a node of a tree is a quantised value."""
    return isinstance(node, Quantized)


def to_arrays(value: Quantized) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of a quantised value by name, and the rest of it in JSON's terms: all that a file has to hold."""
    facts = {
        "kind": value.codec,  # the name in files written before
        "block": value.block,
        "stored": value.stored,
        "transposed": value.transposed,
        "dtype": value.dtype.name,
    }
    return _parts(value), facts


def _parts(value: Quantized) -> dict[str, Any]:
    return {
        tree.path_name(keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(value)
    }


def from_arrays(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> Quantized:
    """The inverse of `to_arrays`.

    Raises:
        ValueError: the facts are those of no value, or do not fit the arrays; lists every array that differs.
    """
    try:
        (a, b), block, dtype = facts["stored"], facts["block"], np.dtype(facts["dtype"])
        if (
            min(a, b) < 1
            or block not in (*BLOCKS, b)
            or not jnp.issubdtype(dtype, jnp.floating)
            or facts["transposed"] not in (True, False)
        ):
            raise ValueError
        encode = partial(
            _quantize, codec=facts["kind"], block=block, double="scales/codes" in arrays
        )
        like = jax.eval_shape(
            encode, jax.ShapeDtypeStruct((*arrays["codes"].shape[:-1], a, b), dtype)
        )
    except (KeyError, TypeError, ValueError):
        given = f"{facts} and arrays {', '.join(arrays) or 'none'}"
        raise ValueError(
            f"expected kind, block, stored, transposed and dtype of a quantised matrix, got {given}"
        ) from None
    wanted = _parts(like)
    expected, got = (
        {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in of.items()}
        for of in (wanted, arrays)
    )
    if wrong := [
        name for name in expected | got if expected.get(name) != got.get(name)
    ]:
        each = (
            f"{name} expected {expected.get(name, 'none')}, got {got.get(name, 'none')}"
            for name in wrong
        )
        raise ValueError("; ".join(each))
    whole = jax.tree.unflatten(
        jax.tree.structure(like), [jnp.asarray(arrays[name]) for name in wanted]
    )
    return replace(whole, transposed=facts["transposed"])
