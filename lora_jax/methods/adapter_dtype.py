"""Adapters in 16 bits, as QLoRA trains them (Dettmers et al. 2023, arXiv 2305.14314).

Half of the adapters and of their gradients is saved. Adam's moments stay in float32, and
so does the update (`train.step.optimizer`). What a weight loses is what its dtype cannot
hold: bfloat16 has 8 bits of precision, so an update of less than 1/512 of a weight is
lost, and a larger one is rounded.
"""

import re
from typing import Any

from lora_jax import tree
from lora_jax.methods.base import Method, adapters

ADAPTER_DTYPES = ("float32", "bfloat16")


def with_adapter_dtype(method: Method, dtype: str) -> Method:
    """Return the method with the leaves that it adds, and trains, stored in a dtype.

    Settings that it adds, such as LoRA's scale, stay as they are. So does whatever the
    model had before: head, biases and the weights that full fine-tuning trains.

    Raises:
        ValueError: the dtype is none of `ADAPTER_DTYPES`.
    """
    if dtype not in ADAPTER_DTYPES:
        names = ", ".join(ADAPTER_DTYPES)
        raise ValueError(f"adapter_dtype: expected one of {names}, got {dtype!r}")

    def adapt(key, model):
        adapted = method.adapt(key, model)
        leaves = _added_leaves(adapted, method)
        cast = {path: leaf.astype(dtype) for path, leaf in leaves.items()}
        return tree.replace(adapted, cast)

    # Methods are made in float32.
    if dtype == "float32":
        return method
    return method._replace(adapt=adapt)


def _added_leaves(model: Any, method: Method) -> dict[str, Any]:
    """Return the trainable leaves of the adapters of a method, by path."""
    leaves = tree.leaves(model)
    added = {}
    for layer_path in adapters(model):
        # What a layer wraps is below `base`.
        its_own = re.compile(re.escape(layer_path) + r"/(?!base/)")
        for path, leaf in leaves.items():
            if its_own.match(path) and re.search(method.trainable, path):
                added[path] = leaf
    return added
