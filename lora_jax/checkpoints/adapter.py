"""The result of a training in one safetensors file: its trainable leaves and its row.

The leaves are stored by path, so that the results of all methods are kept alike, a
method of your own included. The frozen base is not in the file: LoRA's takes a few
hundred kB. To ship it, A and B can be stored in 4 or 8 bits; loaded, they are floats.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lora_jax import bounded_json, quant, tree

# The leaves that are stored in few bits, unless a Spec says otherwise.
LORA_MATRICES = r"(^|/)lora_[ab]$"

# Arrays or quantized leaves by path.
_Leaves = dict[str, Any]
# By path of a quantized leaf: its format, block and shape, in JSON's terms.
_Facts = dict[str, Any]


def dump(
    model: Any,
    mask: Any,
    row: Mapping[str, Any],
    *,
    quantize: str | quant.Spec | None = None,
) -> bytes:
    """Return the file's bytes: the leaves of `model` that `mask` marks, and `row`.

    With `quantize`, a name in `quant.FORMATS`, A and B are stored in few bits, in
    blocks along their long axes, and all other leaves as they are. A Spec chooses by
    its `paths` which leaves are. Zeros (idle adapters, directions that are padding)
    stay exact zeros. In int4_affine they do so only in blocks of zeros alone: in a
    block with other numbers a zero may come back half a step off.

    Raises:
        ValueError: no leaf is to be quantized, or one cannot be; names it.
    """
    leaves = _trainable_leaves(model, mask)
    # The header of a safetensors file holds texts by name.
    metadata = {"row": json.dumps(row)}
    if quantize is not None:
        # The marked leaves alone are a small model: its matrices are A and B.
        spec = _adapter_spec(quantize)
        leaves = quant.quantize_model(leaves, spec)
        leaves, facts = _flatten(leaves)
        metadata["quantized"] = json.dumps(facts)
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    return save(arrays, metadata=metadata)


def load(path: str | Path, model: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
    """Return `model` with its marked leaves as in the file, and the training's row.

    Leaves that were stored in few bits become the floats that their codes stand for.

    Raises:
        ValueError: the file is cut short or is no adapter's, its metadata does not fit
            its arrays, or its leaves are not those that `mask` marks; lists every leaf
            that differs.
    """
    # The file first, then whether it fits the model.
    arrays, row, facts = _read(path)
    leaves = _dequantize(path, arrays, facts)
    trainable = _trainable_leaves(model, mask)
    _check_shapes(path, leaves, trainable)
    # numpy's arrays -> jax's
    new = {name: jnp.asarray(array) for name, array in leaves.items()}
    return tree.replace(model, new), row


def _trainable_leaves(model: Any, mask: Any) -> _Leaves:
    trainable, _ = tree.split(model, mask)
    return tree.leaves(trainable)


def _adapter_spec(quantize: str | quant.Spec) -> quant.Spec:
    if isinstance(quantize, quant.Spec):
        return quantize
    # A name's own paths are a model's matrices, not an adapter's.
    return quant.find_spec(quantize)._replace(paths=LORA_MATRICES)


def _flatten(leaves: _Leaves) -> tuple[_Leaves, _Facts]:
    """Return plain arrays by path, and the facts of each quantized leaf by path.

    A quantized leaf becomes several arrays under its path, `…/lora_a/codes` and so on.
    """
    arrays, facts = {}, {}
    for path, leaf in leaves.items():
        if not quant.is_quantized(leaf):
            arrays[path] = leaf
            continue
        parts, facts[path] = quant.to_arrays(leaf)
        for name, part in parts.items():
            arrays[f"{path}/{name}"] = part
    return arrays, facts


def _read(path: str | Path) -> tuple[_Leaves, dict[str, Any], _Facts]:
    """Return a file's arrays, the training's row, and the facts of quantized leaves."""
    arrays = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            # The open file is no mapping: `keys` is the only list of its names.
            for name in file.keys():  # noqa: SIM118
                arrays[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); delete it to train it "
            "anew"
        ) from None

    # Metadata are texts by name. A file without any has None.
    try:
        row = bounded_json.parse(metadata["row"])
        facts = bounded_json.parse(metadata.get("quantized", "{}"))
        if not isinstance(row, dict) or not isinstance(facts, dict):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected trained leaves and the training's row, got another "
            "safetensors file"
        ) from None
    return arrays, row, facts


def _dequantize(
    path: str | Path,
    arrays: _Leaves,
    facts: _Facts,
) -> _Leaves:
    """Return the leaves, as floats where they are quantized; the inverse of `_flatten`.

    Raises:
        ValueError: the facts of a leaf do not fit its arrays; names every such leaf.
    """
    leaves = dict(arrays)
    problems = ""
    for leaf_path, leaf_facts in facts.items():
        # The arrays of this leaf: codes, scales and so on.
        prefix = f"{leaf_path}/"
        parts = {}
        for name in list(leaves):
            if name.startswith(prefix):
                part = name.removeprefix(prefix)
                parts[part] = leaves.pop(name)
        try:
            value = quant.from_arrays(parts, leaf_facts)
            leaves[leaf_path] = value.dequantize()
        # Facts that somebody changed fail anywhere: a size of 10^30 within jax.
        except Exception as error:
            first_line = str(error).partition("\n")[0][:300]
            problems += f"\n  {leaf_path}: {first_line}"
    # All leaves first: one error names each that is damaged.
    if problems:
        raise ValueError(
            f"{path}: its metadata does not fit its quantized arrays:{problems}"
        )
    return leaves


def _check_shapes(
    path: str | Path,
    leaves: _Leaves,
    trainable: _Leaves,
) -> None:
    """Raise one error for all leaves that are not those of the model."""
    expected = {name: leaf.shape for name, leaf in trainable.items()}
    actual = {name: leaf.shape for name, leaf in leaves.items()}
    problems = ""
    # The model's leaves first, then those that only the file has.
    for name in expected | actual:
        model_shape = expected.get(name, "none")
        file_shape = actual.get(name, "none")
        if model_shape != file_shape:
            problems += f"\n  {name}: expected {model_shape}, got {file_shape}"
    if problems:
        raise ValueError(f"{path} does not fit the model:{problems}")
