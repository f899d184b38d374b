"""GGUF files to read, written by the `gguf` package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from lora_jax import quant

# Bits a number takes, with its share of the block's scale.
BITS = {Type.Q4_0: 4.5, Type.Q4_1: 5.0, Type.Q8_0: 8.5}
# A tensor's bytes or floats, as they are in the file.
Stored = tuple[np.ndarray, Type]


def write(
    path: Path,
    tensors: dict[str, Stored],
    metadata: Callable[[Any], None] | None = None,
    **options: Any,
) -> Path:
    """A file of these tensors, with what `metadata(writer)` adds."""
    writer = gguf.GGUFWriter(path, "bert", **options)
    writer.add_block_count(2)
    if metadata:
        metadata(writer)
    for name, (data, raw_type) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(raw_type: Type, *shape: int, scale: float = 1.0, seed: int = 0) -> Stored:
    """Random numbers in this type."""
    numbers = scale * np.random.default_rng(seed).normal(size=shape)
    data = gguf.quants.quantize(numbers.astype(np.float32), raw_type)
    return data, raw_type


def dense(value: Any) -> np.ndarray:
    """The numbers of an array or a quantized value."""
    if quant.is_quantized(value):
        value = value.dequantize()
    return np.asarray(value)
