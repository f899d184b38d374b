"""The dtype of products, apart from that of storage and that of adapters."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import quant, tree

# Kernels anywhere but in the head; a quantized kernel's arrays have longer paths.
BODY_KERNELS = r"^(?!head/).*(^|/)kernel(/|$)"

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = r"\b(avx512_bf16|amx_bf16|bf16)\b"  # as Linux spells them


def cast_kernels(model: Any, compute_dtype: str) -> Any:
    """Return the model with the float32 kernels of its body in another dtype.

    Products are computed in the dtype of their kernel, all else stays in float32: what
    torch calls autocast. A quantized kernel keeps its bits and is dequantized to that
    dtype. Adapters, head and embeddings keep their dtypes.
    """

    def cast(keys, leaf):
        path = tree.path_name(keys)
        if not re.search(BODY_KERNELS, path):
            return leaf
        if leaf.dtype != jnp.float32:
            return leaf
        return leaf.astype(compute_dtype)

    # Holes that `tree.split` left are no leaves, and stay.
    return jax.tree_util.tree_map_with_path(
        cast,
        model,
        is_leaf=quant.is_quantized,
    )


def fast_dtype() -> str:
    """Return the dtype of the fastest products with which training works as well.

    It is bfloat16 on accelerators and on processors that have such products. On other
    processors it is float32, to which they would convert bfloat16.
    """
    if jax.default_backend() != "cpu":
        return "bfloat16"
    # Only Linux says which instructions a processor has.
    if not CPUINFO.exists():
        return "float32"
    if re.search(BFLOAT16_FLAGS, CPUINFO.read_text()):
        return "bfloat16"
    return "float32"
