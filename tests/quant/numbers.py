"""Matrices for the tests of quantized weights, and formats written out in numpy."""

from typing import Any

import jax
import numpy as np

from lora_jax import quant
from lora_jax.quant import Quantized

quantize: Any = quant.quantize

# Compiled, as they are used.
dequantize = jax.jit(Quantized.dequantize)
rows_of = jax.jit(Quantized.rows)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return numbers from N(0, 1), in float32."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(np.float32)


def row(*numbers: float, fill: float = 0.0) -> np.ndarray:
    """Return a matrix of one row and one block: the numbers, and `fill` up to 32."""
    filled = np.full((1, 32), fill, np.float32)
    filled[0, : len(numbers)] = numbers
    return filled


def nearest_codes(scaled: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the codes of the nearest numbers of a table; half way, the lower one's."""
    order = np.argsort(table, kind="stable")
    ordered = table[order]
    sums = ordered[1:] + ordered[:-1]
    boundaries = sums / np.float32(2)
    # Of a number on a boundary, the rank is the lower one.
    ranks = np.searchsorted(boundaries, scaled)
    codes = order[ranks]
    return codes.astype(np.uint8)


def encode(
    numbers: np.ndarray,
    table: np.ndarray,
    block: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and scales of numbers in a row, block after block, in float32."""
    codes = []
    scales = []
    for start in range(0, len(numbers), block):
        part = numbers[start : start + block]
        scale = np.abs(part).max()
        # bitsandbytes multiplies by the reciprocal, which rounds differently.
        reciprocal = 1 / np.maximum(scale, np.float32(1e-38))
        scaled = np.clip(part * reciprocal, -1, 1)
        part_codes = nearest_codes(scaled, table)
        codes.append(part_codes)
        scales.append(scale)
    return np.concatenate(codes), np.array(scales)


def decode(
    codes: np.ndarray,
    scales: np.ndarray,
    table: np.ndarray,
    block: int,
) -> np.ndarray:
    """Return the numbers of codes and scales in a row."""
    repeated = np.repeat(scales, block)
    return table[codes] * repeated[: len(codes)]
