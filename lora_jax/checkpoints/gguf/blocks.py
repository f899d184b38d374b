"""The blocks of a GGUF tensor as a quantized value: numbers of a few bits, unchanged.

A block is 32 consecutive numbers of a row: a scale (Q4_1: and a minimum), then the
codes. We keep scales and codes in arrays of their own, and only the nibbles of 4-bit
codes change places, so that nothing is rounded and nothing grows.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from lora_jax import quant
from lora_jax.quant.packing import neighbors_to_halves

BLOCK = 32
# llama.cpp's name of a quantized type -> ours of the same format.
CODECS = {"Q4_0": "int4", "Q4_1": "int4_affine", "Q8_0": "int8"}
# What is stored for a number (F32, F16) or for a block. Fields have our arrays' names.
LAYOUTS = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    # Two codes a byte.
    "Q4_0": np.dtype(
        [
            ("scales", "<f2"),
            ("codes", "u1", 16),
        ]
    ),
    "Q4_1": np.dtype(
        [
            ("scales", "<f2"),
            ("minima", "<f2"),
            ("codes", "u1", 16),
        ]
    ),
    "Q8_0": np.dtype(
        [
            ("scales", "<f2"),
            ("codes", "i1", 32),
        ]
    ),
}


class TensorInfo(NamedTuple):
    """A tensor as the header describes it."""

    name: str
    shape: tuple[int, ...]  # torch's: of a matrix (out, in)
    type: str
    start: int  # in bytes, from the start of the file

    @property
    def end(self) -> int:
        """Bytes from the start of the file to the end of the tensor."""
        items = prod(self.shape)
        if self.type in CODECS:
            items //= BLOCK
        item = LAYOUTS[self.type]
        return self.start + items * item.itemsize

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the numbers, or of those that the codes stand for."""
        if self.type in CODECS:
            return np.dtype("float32")
        return LAYOUTS[self.type]


def read_values(info: TensorInfo, data: np.ndarray) -> Any:
    """Return a tensor's numbers out of the bytes of its file.

    That is an array (F32, F16), or a `Quantized` of numpy arrays, in blocks along rows.

    Raises:
        ValueError: scales are NaN or infinite.
    """
    # Bytes -> [numbers], or [blocks] of fields.
    stored = np.asarray(data)[info.start : info.end]
    stored = stored.view(LAYOUTS[info.type])
    if info.type not in CODECS:
        # A copy, so that nothing of the map of the file stays in use.
        return stored.reshape(info.shape).copy()

    # Each field becomes an array of its own.
    arrays: dict[str, Any] = {"minima": None}
    *stack, rows, columns = info.shape
    for field in stored.dtype.names or ():
        numbers = quant.check_finite(stored[field], info.name)
        is_packed = field == "codes" and info.type != "Q8_0"
        if is_packed:
            numbers = _neighbor_nibbles(numbers)
        # The scales, or the codes, of a matrix in one row: [..., n].
        numbers = np.ascontiguousarray(numbers)
        arrays[field] = numbers.reshape(*stack, -1)
        if is_packed:
            arrays[field] = neighbors_to_halves(arrays[field])
    return quant.Quantized(
        **arrays,
        codec=CODECS[info.type],
        block=BLOCK,
        stored=(rows, columns),
    )


def _neighbor_nibbles(codes: np.ndarray) -> np.ndarray:
    """Return bytes [blocks, 16] with two neighbors in each, the first one high.

    In llama.cpp's bytes the low nibbles are numbers 0 to 15 of the block, the high ones
    numbers 16 to 31.
    """
    even = codes[:, ::2]
    odd = codes[:, 1::2]
    # Low nibbles of two bytes, then high ones: uint8 [blocks, 8].
    first_half = (even << 4) | (odd & 0x0F)
    second_half = (even & 0xF0) | (odd >> 4)
    return np.concatenate([first_half, second_half], axis=1)
