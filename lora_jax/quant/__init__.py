"""Weights in few bits: the formats, one quantized matrix, and a quantized model.

`quantize` makes a `Quantized` value of a matrix; `quantize_model` does so for the
matrices of a model, in a format that has a name in `FORMATS`.
"""

from lora_jax.quant.arrays import check_finite, from_arrays, to_arrays
from lora_jax.quant.check import BLOCKS
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
from lora_jax.quant.scales import NESTED, Scales
from lora_jax.quant.value import Quantized, is_quantized, quantize

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
