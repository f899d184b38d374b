"""One leaf of a model out of the tensors of its layers, read piece by piece.

The result is allocated once and filled layer by layer, so that peak memory is the leaf
and one tensor.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lora_jax.checkpoints.tensor import Tensor


class Piece(NamedTuple):
    """A tensor, or its share, that is one leaf or one layer of a leaf."""

    tensor: Tensor
    name: str
    transpose: bool
    # The index of the share in a fused tensor, `...` for a tensor of one leaf.
    index: Any


# The pieces of one leaf by layer; the key is None for a leaf that is not stacked.
Pieces = dict[int | None, Piece]
# (path, numbers) -> an array or a tree of arrays, such as a quantized value.
Convert = Callable[[str, Any], Any]


def stack(
    path: str,
    pieces: Pieces,
    shape: tuple[int, ...],
    dtype: DTypeLike | None,
    convert: Convert,
) -> Any:
    """Return one leaf, read piece by piece into an array for all layers."""
    target = _common_dtype(pieces, dtype)
    stacked: Any = None
    for layer, piece in pieces.items():
        numbers = convert(path, _read_piece(path, piece, target))
        numbers = jax.tree.map(np.asarray, numbers)
        if layer is None:
            return numbers
        # What `convert` makes of a layer is known once the first is there: it may be
        # several arrays, such as codes and scales.
        if stacked is None:
            stacked = _empty_layers(numbers, shape[0])
        if jax.tree.structure(stacked) != jax.tree.structure(numbers):
            raise ValueError(
                f"{path}: expected every layer to be stored alike, but {piece.name} is "
                "not stored as the layers before it"
            )
        _set_layer(stacked, layer, numbers)
    return stacked


def _common_dtype(
    pieces: Pieces,
    dtype: DTypeLike | None,
) -> np.dtype:
    """Return `dtype` for a leaf of floats, else the dtype that holds all its layers."""
    dtypes = [piece.tensor.dtype for piece in pieces.values()]
    stored = reduce(jnp.promote_types, dtypes)
    if dtype is not None and jnp.issubdtype(stored, jnp.floating):
        return jnp.dtype(dtype)
    # Integers, such as position numbers, are kept as they are.
    return stored


def _read_piece(path: str, piece: Piece, dtype: np.dtype) -> Any:
    # From the file now, and not before.
    numbers = piece.tensor.read()
    if piece.transpose:
        numbers = numbers.T
    if piece.index is not ...:
        # The blocks of a quantized value may run across the cuts.
        if not isinstance(numbers, np.ndarray):
            raise ValueError(
                f"{piece.name} in {piece.tensor.file}: expected an array to cut {path} "
                "from, got a quantized one"
            )
        numbers = numbers[piece.index]
    if numbers.dtype == dtype:
        return numbers
    # Of a quantized value this is the dtype of the numbers that its codes stand for.
    return numbers.astype(dtype)


def _empty_layers(layer: Any, count: int) -> Any:
    def empty(array: np.ndarray) -> np.ndarray:
        # [...] of one layer -> [L, ...]
        return np.empty((count, *array.shape), array.dtype)

    return jax.tree.map(empty, layer)


def _set_layer(stacked: Any, layer: int, numbers: Any) -> None:
    # In place: stacking a list of all layers would take their memory twice.
    arrays = jax.tree.leaves(stacked)
    parts = jax.tree.leaves(numbers)
    for array, part in zip(arrays, parts, strict=True):
        array[layer] = part
