"""Whether the sizes in config.json are those of the checkpoint's tensors.

They are compared before a model is built from them: a damaged number of layers or a
width of 10¹² would take all memory, where a message takes none.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_jax.checkpoints.tensor import Tensor

# How many layers a message lists.
_LIMIT = 10
# Layers that can be counted: more digits are no index.
_INDEX = re.compile(r"0|[1-9]\d{0,8}")


class Size(NamedTuple):
    """A field of config.json that is a size, and the tensor that has it too."""

    field: str
    # Matches the tensor's name from end to end; a size of several tensors has none.
    pattern: str | None = None
    # Of the tensor's shape. None is the number of layers: group 1 of the pattern is a
    # layer's index.
    axis: int | None = None


def check_sizes(
    source: str,
    config: Mapping[str, Any],
    sizes: tuple[Size, ...],
    tensors: Mapping[str, Tensor],
) -> None:
    """Compare the fields that are whole numbers with the shapes of the tensors.

    Whether the others are sizes at all is asked by the family's `Config.from_hf`.

    Raises:
        ValueError: sizes differ from those of the tensors, or are larger than any of
            theirs; lists all of them.
    """
    longest = max(
        (max(tensor.shape, default=1) for tensor in tensors.values()), default=0
    )
    problems = []
    for size in sizes:
        value = config.get(size.field)
        # JSON's true and false are integers in Python.
        if type(value) is not int or value < 1:
            continue
        content = _content(size, value, tensors)
        if content is None and value > longest:
            content = f"the longest axis of a tensor has {longest:,}"
        if content:
            problems.append(f"{size.field} is {_number(value)}, {content}")
    if problems:
        lines = "\n  ".join(problems)
        raise ValueError(
            f"{source}: expected config.json to have the sizes of the tensors, but"
            f"\n  {lines}"
        )


def _content(size: Size, value: int, tensors: Mapping[str, Tensor]) -> str | None:
    """What the tensors have instead; None without a tensor, "" if they have the size."""
    if size.pattern is None:
        return None
    matches = {}
    for name in tensors:
        if match := re.fullmatch(size.pattern, name):
            matches[name] = match
    if not matches:
        return None
    if size.axis is None:
        return _layers({match[1] for match in matches.values()}, value)
    for name in matches:
        shape = tensors[name].shape
        # Of a tensor of another rank the placement says what is wrong.
        if size.axis < len(shape) and shape[size.axis] != value:
            return f"{name} in {tensors[name].file} has the shape {shape}"
    return ""


def _layers(names: set[str], count: int) -> str:
    """What the tensors have instead of layers 0 to count - 1; "" if they have those."""
    odd = sorted(name for name in names if not _INDEX.fullmatch(name))
    if odd:
        return f"the tensors have a layer {odd[0][:20]}"
    indices = sorted(map(int, names))
    if indices == list(range(len(indices))):
        last = indices[-1]
        return "" if last == count - 1 else f"the tensors have layers 0 to {last}"
    listed = ", ".join(map(str, indices[:_LIMIT]))
    if len(indices) > _LIMIT:
        listed += f" and {len(indices) - _LIMIT} more"
    return f"the tensors have layers {listed}"


def _number(value: int) -> str:
    # Python refuses to write numbers of thousands of digits.
    return f"{value:,}" if value < 10**30 else "a number of more than 30 digits"
