"""The dtype that products are taken in: apart from that of storage and of adapters."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import quant, tree


def cast_kernels(model: Any, compute_dtype: str) -> Any:
    """The model with the kernels of its body in that dtype: products are taken in it, all else stays in float32.

    A quantised kernel keeps its bits and is dequantised to that dtype.
    It is what torch calls autocast. Adapters, head and embeddings keep their own dtype, and so do leaves that are no arrays.
    """

    def cast(keys, leaf):
        body = (
            re.search(r"^(?!head/).*(^|/)kernel(/|$)", tree.path_name(keys))
            and leaf.dtype == jnp.float32
        )
        return leaf.astype(compute_dtype) if body else leaf

    return jax.tree_util.tree_map_with_path(cast, model, is_leaf=quant.is_quantized)


def fast_dtype() -> str:
    """The dtype of the fastest matrix products that train as well: bfloat16 on accelerators and on processors with such
    products (Linux says which), else float32, to which bfloat16 would be converted there."""
    if jax.default_backend() != "cpu":
        return "bfloat16"
    known = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return (
        "bfloat16"
        if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", known)
        else "float32"
    )
