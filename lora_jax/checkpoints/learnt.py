"""What a training learnt, in one safetensors file: the trainable leaves by path, and the training's row in the header.

So every method's result is kept alike, one's own included; the base is not in it. LoRA's takes a few hundred kB.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lora_jax import tree


def dump(model: Any, mask: Any, row: Mapping[str, Any]) -> bytes:
    """The file's bytes: the leaves of `model` that `mask` marks, and `row`."""
    learnt = tree.leaves(tree.split(model, mask)[0])
    return save({path: np.asarray(leaf) for path, leaf in learnt.items()}, metadata={"row": json.dumps(row)})


def load(path: str | Path, model: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
    """`model` with its marked leaves as they were learnt, and the training's row.

    Raises:
        ValueError: the file is not whole, or its leaves are not those that are marked; lists every one that differs.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            found, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); delete it to train it anew") from None
    wanted = {name: leaf.shape for name, leaf in tree.leaves(tree.split(model, mask)[0]).items()}
    got = {name: array.shape for name, array in found.items()}
    if wrong := [name for name in wanted | got if wanted.get(name) != got.get(name)]:
        lines = [f"\n  {name}: expected {wanted.get(name, 'none')}, got {got.get(name, 'none')}" for name in wrong]
        raise ValueError(f"{path} does not fit the model:{''.join(lines)}")
    return tree.replace(model, {name: jnp.asarray(array) for name, array in found.items()}), json.loads(said["row"])
