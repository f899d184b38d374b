"""One tensor of a checkpoint, whatever the format of its file.

Readers of a format give `Tensor`s by name, from the file's header alone. `placement`
decides by their names and shapes where they go, and only then reads their numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A tensor known by its file's header; `read()` brings the numbers."""

    file: str  # the file's name, for errors
    shape: tuple[int, ...]
    dtype: np.dtype
    # Gives an array, or a quantized value where the file has one.
    read: Callable[[], Any]


def list_lines(lines: list[str], limit: int = 10) -> str:
    """Return the lines indented for an error, and how many there are past `limit`."""
    # The first are enough to see a pattern, such as a prefix too many.
    shortened = lines[:limit]
    hidden = len(lines) - limit
    if hidden > 0:
        shortened.append(f"... and {hidden} more")
    text = ""
    for line in shortened:
        text += f"\n  {line}"
    return text
