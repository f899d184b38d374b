"""A weight of row-wise LLM.int8 (arXiv 2208.07339): codes, and a scale for each row."""

from functools import partial
from typing import Any

import numpy as np

from lora_jax import quant
from lora_jax.checkpoints.bitsandbytes.parts import CODES, Group, find_problems
from lora_jax.checkpoints.tensor import Tensor


def int8_tensor(weight: str, group: Group) -> Tensor:
    """Return one tensor for a group, in float32: the format keeps no dtype.

    Raises:
        ValueError: the codes are no int8 matrix, the scales do not fit them, or they
            are not stored row by row.
    """
    codes = group[CODES]
    if codes.dtype != np.int8 or len(codes.shape) != 2:
        raise ValueError(
            f"{weight}: expected an int8 matrix (out, in) with SCB, "
            f"got {codes.dtype} {codes.shape}"
        )
    # A scale for each row of torch's matrix.
    out, _ = codes.shape
    expected = {"SCB": ("float32", out)}
    problems = find_problems(weight, group, expected, ("weight_format",))

    # Other layouts are those of old GPU kernels.
    if "weight_format" in group:
        layout = group["weight_format"].read().reshape(-1).tolist()
        if layout != [0]:
            problems.append(f"{weight}: expected rows (weight_format 0), got {layout}")
    if problems:
        raise ValueError("\n  ".join(problems))
    read = partial(_read, weight, group)
    return Tensor(codes.file, codes.shape, np.dtype("float32"), read)


def _read(weight: str, group: Group) -> quant.Quantized:
    # [out, in]
    codes: Any = group[CODES].read()
    largest = quant.check_finite(group["SCB"].read().reshape(-1), f"{weight}: SCB")
    # SCB is the largest number of a row, which code 127 stands for.
    scales: Any = largest / np.float32(127)
    _, width = codes.shape
    return quant.Quantized(
        codes.reshape(-1),
        scales,
        minima=None,
        codec="int8",
        block=width,
        stored=codes.shape,
    )
