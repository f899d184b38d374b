"""Tensors as bitsandbytes keeps them: what it wrote itself, and a writer of more.

fixtures/bitsandbytes.safetensors has, for each weight, what bitsandbytes 0.50.2 stored
(torch's state_dict) and `<weight>.dequantized`, the numbers it made of that. The parity
tests write the same file anew, and have bitsandbytes read what `write_weight` gives.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from lora_jax import quant
from lora_jax.checkpoints import bitsandbytes, safetensors
from lora_jax.checkpoints.bitsandbytes import STATE, TABLES
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.quant.formats import DYNAMIC
from lora_jax.quant.packing import halves_to_neighbors

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bitsandbytes.safetensors"
# What is in it: shape, format, block, double, dtype.
WRITTEN = {
    "whole": ((8, 64), "nf4", 64, False, "float32"),
    "double": ((16, 64), "nf4", 64, True, "float32"),
    "odd": ((5, 33), "nf4", 32, False, "float16"),
    "ragged": ((7, 22), "fp4", 128, False, "float32"),
    "both": ((8, 32), "fp4", 32, True, "bfloat16"),
    "int8": ((3, 32), "int8", 32, False, "float16"),
}
# The JSON of the weight that `group` gives in NF4.
JSON = f"w.weight.{STATE}nf4"


def plain(shape: tuple[int, int]) -> np.ndarray:
    """Zeros, then multiples of 1/512, so that sums of scales are exact in any order."""
    count = shape[0] * shape[1]
    steps = (np.arange(count) * 7919) % 1009 - 504
    weights = steps.astype(np.float32) / 512
    # One block of zeros, at least of the smaller blocks.
    weights[:64] = 0
    return weights.reshape(shape)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def collect(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The tensors as collected from a file of these arrays."""
    stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    tensors = safetensors.tensors(save(stored))
    return bitsandbytes.collect_quantized(tensors)


def group(codec: str = "nf4", double: bool = False) -> dict[str, np.ndarray]:
    """The tensors of one weight (40, 64)."""
    value = quant.quantize(normal(40, 64), codec, double=double)
    return write_weight("w.weight", value)


def write_weight(name: str, weight: quant.Quantized) -> dict[str, np.ndarray]:
    """The tensors of a weight (out, in) in NF4 or FP4; that is our `kernel.T`."""
    facts = {
        "quant_type": weight.codec,
        "blocksize": weight.block,
        "dtype": str(weight.dtype),
        "shape": weight.shape,
    }
    parts = {"absmax": weight.scales, "quant_map": TABLES[weight.codec]}
    scales = weight.scales
    if isinstance(scales, quant.Scales):
        facts["nested_blocksize"] = quant.NESTED
        facts["nested_dtype"] = "float32"
        facts["nested_offset"] = float(scales.offset)
        parts["absmax"] = scales.codes
        parts["nested_absmax"] = scales.scales
        parts["nested_quant_map"] = DYNAMIC
    text = json.dumps(facts).encode()
    parts[STATE + weight.codec] = np.frombuffer(text, np.uint8)
    # A column of bytes.
    tensors = {name: halves_to_neighbors(weight.codes)[:, None]}
    for part, numbers in parts.items():
        tensors[f"{name}.{part}"] = np.asarray(numbers)
    return tensors
