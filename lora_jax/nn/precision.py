"""The dtype of computation, apart from that of storage and that of adapters."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import quant, tree

# Kernels anywhere but in the head; a quantized kernel's arrays have longer paths.
BODY_KERNELS = r"^(?!head/).*(^|/)kernel(/|$)"

# The names of the ways to compute, by the dtypes of products and of activations.
COMPUTE_DTYPES = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "bfloat16_activations": ("bfloat16", "bfloat16"),
}

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = r"\b(avx512_bf16|amx_bf16|bf16)\b"  # as Linux spells them


def product_dtype(compute_dtype: str) -> str:
    """Return the dtype that the factors of products have."""
    product, _ = COMPUTE_DTYPES[compute_dtype]
    return product


def activation_dtype(compute_dtype: str) -> str:
    """Return the dtype of the residual stream and of what is kept of a forward pass.

    Norms, softmax and loss are computed in float32 all the same, and products summed.
    """
    _, activations = COMPUTE_DTYPES[compute_dtype]
    return activations


def cast_kernels(model: Any, compute_dtype: str) -> Any:
    """Return the model with the float32 kernels of its body in the dtype of products.

    A quantized kernel keeps its bits and is dequantized to that dtype. Adapters, head
    and embeddings keep their dtypes.
    """
    dtype = product_dtype(compute_dtype)

    def cast(keys, leaf):
        path = tree.path_name(keys)
        if not re.search(BODY_KERNELS, path):
            return leaf
        if leaf.dtype != jnp.float32:
            return leaf
        return leaf.astype(dtype)

    # Holes that `tree.split` left are no leaves, and stay.
    return jax.tree_util.tree_map_with_path(
        cast,
        model,
        is_leaf=quant.is_quantized,
    )


def fast_dtype() -> str:
    """Return the name of the fastest computation with which training works as well.

    On accelerators products and activations are in bfloat16. On processors that have
    such products these alone are; others would convert bfloat16 to float32.
    """
    if jax.default_backend() != "cpu":
        return "bfloat16_activations"
    # Only Linux says which instructions a processor has.
    if not CPUINFO.exists():
        return "float32"
    if re.search(BFLOAT16_FLAGS, CPUINFO.read_text()):
        return "bfloat16"
    return "float32"
