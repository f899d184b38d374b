"""The formats QLoRA compares as ways to store a base, and what each does to it.

Only the matrices of the blocks are stored in the format; embeddings, norms and head
stay as they are.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save

from lora_jax import quant, tree
from lora_jax.nn import precision


class StorageFormat(NamedTuple):
    """How a base is stored, and the dtype its products are computed in."""

    quantize: str  # of quant.FORMATS, or "none"
    compute: str  # a dtype, or "auto" for the fastest of this machine

    @property
    def compute_dtype(self) -> str:
        """The dtype of products on this machine."""
        return precision.fast_dtype() if self.compute == "auto" else self.compute

    @property
    def has_four_bits(self) -> bool:
        """Whether a number is stored in 4 bits, its share of the scales apart."""
        spec = quant.FORMATS.get(self.quantize)
        if spec is None:
            return False
        return quant.CODECS[spec.codec].bits == 4


# Floats have the dtype of their products; bits are dequantized to the fastest.
FORMATS = {
    "fp32": StorageFormat("none", "float32"),
    "bf16": StorageFormat("none", "bfloat16"),
    "int8": StorageFormat("int8", "auto"),
    "int4": StorageFormat("int4", "auto"),
    "fp4": StorageFormat("fp4", "auto"),
    "nf4": StorageFormat("nf4", "auto"),
    "nf4_double": StorageFormat("nf4_double", "auto"),
}
"""The formats by name."""


def store_base(model: Any, storage: StorageFormat, block: int | None = None) -> Any:
    """Return the model with the matrices of its blocks in the format.

    `block` is the number of values that share a scale, by default the format's own.
    """
    if storage.quantize == "none":
        return precision.cast_kernels(model, storage.compute)
    # A block of None is the format's own.
    spec = quant.FORMATS[storage.quantize]._replace(block=block)
    return quant.quantize_model(model, spec)


def storage_metrics(
    model: Any, storage: StorageFormat, block: int | None
) -> dict[str, float]:
    """Return error and size of a model that is stored in the format.

    `error/relative` is ||W - W'|| / ||W|| over the blocks' matrices, and
    `error/mean_absolute` the mean of |W - W'|. `size/bits` is stored for each of their
    numbers. `size/disk` and `size/memory` are bytes of the entire model, as a
    safetensors file and as arrays.
    """
    stored = store_base(model, storage, block)
    matrices = tree.find(stored, quant.BODY)
    stored_bytes = sum(matrix.nbytes for matrix in matrices.values())
    # Over all matrices of the blocks.
    numbers = 0
    absolute = squared = squared_norm = 0.0
    for path, original in tree.find(model, quant.BODY).items():
        w = np.asarray(original, np.float32)  # [L, i, o]
        difference = _to_float(matrices[path]) - w
        absolute += np.abs(difference).sum()
        squared += (difference**2).sum()
        squared_norm += (w**2).sum()
        numbers += w.size
    # The entire model, as it would be written.
    arrays = _arrays_by_path(stored)
    return {
        "error/relative": float((squared / squared_norm) ** 0.5),
        "error/mean_absolute": float(absolute / numbers),
        "size/bits": 8 * stored_bytes / numbers,
        "size/disk": float(len(save(arrays))),
        "size/memory": float(sum(array.nbytes for array in arrays.values())),
    }


def _to_float(matrix: Any) -> np.ndarray:
    if quant.is_quantized(matrix):
        matrix = matrix.dequantize()
    return np.asarray(matrix, np.float32)


def _arrays_by_path(model: Any) -> dict[str, np.ndarray]:
    """Every array; a quantized matrix has several, its codes and its scales."""
    # jax's own leaves: tree.leaves would give a quantized matrix as one.
    leaves_with_keys, _ = jax.tree_util.tree_flatten_with_path(model)
    arrays = {}
    for keys, leaf in leaves_with_keys:
        arrays[tree.path_name(keys)] = np.asarray(leaf)
    return arrays
