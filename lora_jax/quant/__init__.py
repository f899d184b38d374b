"""Weights in few bits: formats, one quantized matrix, and a model whose matrices are quantized."""

from lora_jax.quant.formats import CODECS
from lora_jax.quant.model import (
    BODY,
    FORMATS,
    Spec,
    bits_per_parameter,
    dequantize_model,
    find_spec,
    quantize_model,
    quantized_leaves,
)
from lora_jax.quant.value import (
    BLOCKS,
    NESTED,
    Quantized,
    Scales,
    check_finite,
    from_arrays,
    is_quantized,
    quantize,
    to_arrays,
)

__all__ = [
    "BLOCKS",
    "BODY",
    "CODECS",
    "FORMATS",
    "NESTED",
    "Quantized",
    "Scales",
    "Spec",
    "bits_per_parameter",
    "check_finite",
    "dequantize_model",
    "find_spec",
    "from_arrays",
    "is_quantized",
    "quantize",
    "quantize_model",
    "quantized_leaves",
    "to_arrays",
]
