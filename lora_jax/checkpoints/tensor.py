"""A tensor of a checkpoint, whatever the file's format."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A tensor of a checkpoint, known by its header; `read()` brings the numbers."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Any]  # an array, or a quantised value where the file has one


def list_lines(lines: list[str], most: int = 10) -> str:
    more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *more])
