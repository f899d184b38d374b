"""Equality of quantized values: the same fields, and arrays of the same bits."""

from typing import Any

import jax
import numpy as np


def same_bits(a: Any, b: Any) -> bool:
    """Return whether two trees have the same structure, and leaves of the same bits."""
    # The fields that are no arrays are part of the structure.
    a_leaves, a_structure = jax.tree.flatten(a)
    b_leaves, b_structure = jax.tree.flatten(b)
    if a_structure != b_structure:
        return False
    return all(map(_same_leaf, a_leaves, b_leaves))


def _same_leaf(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if not _is_array(a) or not _is_array(b):
        # Leaves may be shapes, or whatever else a transform puts into a tree.
        return bool(a == b)
    a = np.asarray(a)
    b = np.asarray(b)
    if a.dtype != b.dtype:
        return False
    if a.shape != b.shape:
        return False
    # Bytes, not numbers: a NaN is itself, and 0.0 is not -0.0.
    return a.tobytes() == b.tobytes()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array)
