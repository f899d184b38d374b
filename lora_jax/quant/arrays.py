"""A quantized value as a file holds it: named arrays, and facts that are no arrays."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lora_jax import tree
from lora_jax.quant.check import BLOCKS
from lora_jax.quant.formats import CODECS
from lora_jax.quant.packing import halves_to_neighbors, neighbors_to_halves
from lora_jax.quant.value import Quantized, encode_matrix


def to_arrays(value: Quantized) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a quantized value by name, and its facts.

    The facts are what else a file has to hold, in types that JSON has.
    """
    facts = {
        # The codec's key in files; its name there is older than the field's.
        "kind": value.codec,
        "block": value.block,
        "stored": value.stored,
        "transposed": value.transposed,
        "dtype": value.dtype.name,
    }
    arrays = _leaves_by_name(value)
    # Files keep the order of codes that they have always had.
    if CODECS[value.codec].bits == 4:
        arrays["codes"] = halves_to_neighbors(arrays["codes"])
    return arrays, facts


def _leaves_by_name(value: Quantized) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(value)
    leaves = {}
    for keys, leaf in pairs:
        name = tree.path_name(keys)
        leaves[name] = leaf
    return leaves


def from_arrays(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> Quantized:
    """Return the quantized value of arrays and facts: the inverse of `to_arrays`.

    Raises:
        ValueError: the facts describe no value, or the arrays do not fit them; lists
            every array that differs.
    """
    # Facts of any other form, from a damaged file for example, fail in any way.
    try:
        template = _template(arrays, facts)
    except (KeyError, TypeError, ValueError):
        names = ", ".join(arrays) or "none"
        raise ValueError(
            "expected kind, block, stored, transposed and dtype of a quantized matrix, "
            f"got {facts} and arrays {names}"
        ) from None

    expected = _leaves_by_name(template)
    _check_arrays(arrays, expected)

    arrays = dict(arrays)
    if CODECS[template.codec].bits == 4:
        arrays["codes"] = neighbors_to_halves(arrays["codes"])
    # Names and leaves are in the order of the template's leaves.
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    structure = jax.tree.structure(template)
    value = jax.tree.unflatten(structure, leaves)
    return replace(value, transposed=facts["transposed"])


def _template(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> Quantized:
    """Return the value with shapes as its leaves; raise an error if there is none."""
    # Facts first: they say what the arrays have to be.
    rows, columns = facts["stored"]
    block = facts["block"]
    dtype = np.dtype(facts["dtype"])
    if rows < 1 or columns < 1:
        raise ValueError
    # A row is the default block of int8.
    if block != columns and block not in BLOCKS:
        raise ValueError
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError
    if facts["transposed"] not in (True, False):
        raise ValueError

    # The arrays have to have the shapes that quantizing such a matrix gives.
    codes = arrays["codes"]
    stack = codes.shape[:-1]
    shape = (*stack, rows, columns)
    encode = partial(
        encode_matrix,
        codec=facts["kind"],
        block=block,
        double="scales/codes" in arrays,
    )
    return jax.eval_shape(encode, jax.ShapeDtypeStruct(shape, dtype))


def _check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    # Compared as the texts that the message shows.
    expected_text = _describe(expected)
    actual_text = _describe(arrays)
    # Both what is missing and what is not expected are problems.
    problems = []
    for name in expected_text | actual_text:
        expectation = expected_text.get(name, "none")
        actual = actual_text.get(name, "none")
        if expectation != actual:
            problems.append(f"{name} expected {expectation}, got {actual}")
    if problems:
        raise ValueError("; ".join(problems))


def _describe(arrays: Mapping[str, Any]) -> dict[str, str]:
    descriptions = {}
    for name, leaf in arrays.items():
        descriptions[name] = f"{leaf.dtype} {leaf.shape}"
    return descriptions


def check_finite(scales: np.ndarray, name: str) -> np.ndarray:
    """Return the scales of a file as they are.

    Raises:
        ValueError: some are NaN or infinite; has their name and count.
    """
    # A damaged scale would spoil a whole block of weights in silence.
    is_bad = ~np.isfinite(scales)
    bad_count = int(is_bad.sum())
    if bad_count:
        raise ValueError(
            f"{name}: expected finite scales, got {bad_count} that are NaN or infinite"
        )
    return scales
