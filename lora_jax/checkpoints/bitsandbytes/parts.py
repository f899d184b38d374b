"""The tensors that make up one quantized weight, and whether they fit it."""

import math
from collections.abc import Mapping

from lora_jax.checkpoints.tensor import Tensor

# The tensors of one weight, by what comes after the weight's name in theirs.
Group = Mapping[str, Tensor]
# The tensor with the weight's own name.
CODES = ""
# What a part has to be: the dtype, and how many numbers.
Content = tuple[str, int]


def find_problems(
    weight: str,
    group: Group,
    expected: Mapping[str, Content],
    optional: tuple[str, ...],
) -> list[str]:
    """Return a line for each part that is missing, does not fit, or is one too many.

    The codes are not looked at. Names that begin with one of `optional` are allowed
    beside the `expected` ones.
    """
    problems = []
    for part in expected:
        if part not in group:
            problems.append(f"{weight}: expected with {part}, got none")
    for part, tensor in group.items():
        if part == CODES or part.startswith(optional):
            continue
        if part not in expected:
            others = ", ".join(expected)
            problems.append(f"{weight}.{part}: expected none beside {others}")
            continue
        # bitsandbytes keeps some parts flat and some as columns: the count matters.
        dtype, count = expected[part]
        if tensor.dtype.name == dtype and math.prod(tensor.shape) == count:
            continue
        problems.append(
            f"{weight}.{part}: expected {dtype} {count}, "
            f"got {tensor.dtype} {tensor.shape}"
        )
    return problems
