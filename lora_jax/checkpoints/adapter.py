"""What a training learnt, in one safetensors file: the trainable leaves by path, and the training's row in the header.

So every method's result is kept alike, one's own included; the base is not in it. LoRA's takes a few hundred kB. To ship it, A and
B can be stored in 4 or 8 bits; they are floats again when loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lora_jax import quant, tree

ADAPTERS = (
    r"(^|/)lora_[ab]$"  # what `dump` stores in few bits unless a Spec says otherwise
)


def dump(
    model: Any,
    mask: Any,
    row: Mapping[str, Any],
    *,
    quantize: str | quant.Spec | None = None,
) -> bytes:
    """The file's bytes: the leaves of `model` that `mask` marks, and `row`.

    With `quantize`, a name of `quant.FORMATS`, A and B are stored in few bits, blocks along their long axes, what else is learnt as
    it is; a Spec says by its `paths` what is. Zeros (idle adapters, directions that are padding) stay zeros exactly. Of
    int4_affine that holds for blocks of zeros alone: one of a block with other numbers may come back half a step off.

    Raises:
        ValueError: none of the leaves is to be quantised, or one cannot be; names it.
    """
    learnt, said = tree.leaves(tree.split(model, mask)[0]), {"row": json.dumps(row)}
    if quantize is not None:
        how = (
            quantize
            if isinstance(quantize, quant.Spec)
            else quant.find_spec(quantize)._replace(paths=ADAPTERS)
        )
        learnt, facts = _stored(quant.quantize_model(learnt, how))
        said["quantized"] = json.dumps(facts)
    return save(
        {path: np.asarray(leaf) for path, leaf in learnt.items()}, metadata=said
    )


def load(path: str | Path, model: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
    """`model` with its marked leaves as they were learnt, or what their bits stand for, and the training's row.

    Raises:
        ValueError: the file is not whole or another's, what it says of its bits does not fit them, or its leaves are not those that
            are marked; lists every one that differs.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found, said = (
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                file.metadata(),
            )
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); delete it to train it anew"
        ) from None
    try:
        row, facts = (
            json.loads(said["row"]),
            dict(json.loads(said.get("quantized", "{}"))),
        )
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected what a training learnt and its row, got another safetensors file"
        ) from None
    leaves, wrong = _floats(found, facts)
    if wrong:
        raise ValueError(
            f"{path}: what it says of its bits does not fit them:{''.join(wrong)}"
        )
    wanted = {
        name: leaf.shape
        for name, leaf in tree.leaves(tree.split(model, mask)[0]).items()
    }
    got = {name: array.shape for name, array in leaves.items()}
    if wrong := [name for name in wanted | got if wanted.get(name) != got.get(name)]:
        lines = [
            f"\n  {name}: expected {wanted.get(name, 'none')}, got {got.get(name, 'none')}"
            for name in wrong
        ]
        raise ValueError(f"{path} does not fit the model:{''.join(lines)}")
    return tree.replace(
        model, {name: jnp.asarray(array) for name, array in leaves.items()}
    ), row


def _stored(leaves: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves with the arrays of each quantised one under its path, and by path what else there is to say of those."""
    arrays, facts = {}, {}
    for path, leaf in leaves.items():
        if quant.is_quantized(leaf):
            parts, facts[path] = quant.to_arrays(leaf)
            arrays |= {f"{path}/{name}": part for name, part in parts.items()}
        else:
            arrays[path] = leaf
    return arrays, facts


def _floats(
    arrays: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The inverse of `_stored`, with what the bits stand for; and a line for each path whose facts do not fit its arrays."""
    leaves, wrong = dict(arrays), []
    for path, said in facts.items():
        names = [name for name in leaves if name.startswith(f"{path}/")]
        parts = {name.removeprefix(f"{path}/"): leaves.pop(name) for name in names}
        try:
            leaves[path] = quant.from_arrays(parts, said).dequantize()
        except ValueError as error:
            wrong.append(f"\n  {path}: {error}")
    return leaves, wrong
