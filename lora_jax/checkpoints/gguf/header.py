"""The header of a GGUF file: its metadata, and where its tensors are.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is read here
and not with the `gguf` package, which follows every count of a damaged one, and takes
gigabytes for an array of 20 MB.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType

from lora_jax.checkpoints.gguf.blocks import BLOCK, CODECS, LAYOUTS, TensorInfo
from lora_jax.checkpoints.gguf.cursor import Cursor

VERSIONS = (2, 3)
# The bytes of the magic and the version.
START = 8
# What tensors are aligned to in a file that does not say.
ALIGNMENT = 32
# Tensors, or keys: a model has some hundred of both. And axes: a tensor has up to 4.
MAX_NAMES = 100_000
MAX_AXES = 64
# The name of each type of tensors that llama.cpp has, by its number.
TYPES = {known.value: known.name for known in GGMLQuantizationType}


class Header(NamedTuple):
    """A header that was read and checked, and the bytes of the file, mapped."""

    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    data: np.ndarray


def read_header(path: Path, name: str) -> Header:
    """Return the header of the file at `path`, which errors call `name`.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no GGUF file, of another version or byte order, or damaged; or
            there are tensors that are cut off, of a type that is not read, or of one
            name, each of which is named.
    """
    _check_start(path, name)
    data = np.memmap(path, mode="r")
    cursor = Cursor(data, START)
    try:
        tensor_count = cursor.count(8, MAX_NAMES)
        count = cursor.count(8, MAX_NAMES)
        metadata = _read_metadata(cursor, count)
        tensors = _read_tensors(cursor, tensor_count, _alignment(metadata))
    # A text that is not UTF-8, too.
    except ValueError as error:
        raise ValueError(
            f"{name}: the header of this GGUF file is cut short or damaged ({error}). "
            "Fetch the file again."
        ) from None
    _check_tensors(tensors, data.size, name)
    return Header(metadata, tensors, data)


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata = {}
    for _ in range(count):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"expected each key once, got {key[:100]!r} twice")
        kind = cursor.number(4)
        try:
            metadata[key] = cursor.value(kind)
        except ValueError as error:
            raise ValueError(f"{key[:100]}: {error}") from None
    return metadata


def _alignment(metadata: Mapping[str, Any]) -> int:
    """The number of bytes that the start of each tensor is a multiple of."""
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(
            f"general.alignment: expected a whole number above 0, got {alignment!r}"
        )
    return alignment


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> list[TensorInfo]:
    described = []
    for _ in range(count):
        name = cursor.text()
        axes = cursor.count(4, MAX_AXES)
        dimensions = [cursor.number(8) for _ in range(axes)]
        kind = cursor.number(4)
        described.append((name, dimensions, kind, cursor.number(8)))
    # The numbers begin after the header, which is filled up to a multiple.
    filled = -cursor.position % alignment
    data_start = cursor.position + filled
    tensors = []
    for name, dimensions, kind, offset in described:
        # A type that the package does not know is named by its number, and the file
        # has the innermost dimension first.
        type_name = TYPES.get(kind, str(kind))
        shape = tuple(reversed(dimensions))
        tensors.append(TensorInfo(name, shape, type_name, data_start + offset))
    return tensors


def _check_start(path: Path, name: str) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
        version = file.read(4)
    if magic != b"GGUF":
        raise ValueError(
            f"{name}: expected a GGUF file, which begins with b'GGUF', got one that "
            f"begins with {magic!r}"
        )
    number = int.from_bytes(version, "little")
    # A file that ends here is cut short, which is found out next.
    if len(version) < 4 or number in VERSIONS:
        return
    expected = " or ".join(map(str, VERSIONS))
    actual = f"version {number}"
    # Versions are small numbers: their low bytes are zero if the order is reversed.
    if number % 2**16 == 0:
        actual = "a big-endian one"
    raise ValueError(
        f"{name}: expected a little-endian GGUF file of version {expected}, "
        f"got {actual}"
    )


def _check_tensors(tensors: list[TensorInfo], size: int, name: str) -> None:
    """Raise one error for all tensors that cannot be read from a file of that size."""
    # Names by what is wrong with them.
    problems: dict[str, list[str]] = defaultdict(list)
    for info in tensors:
        problem = _find_problem(info, size)
        if problem:
            title, label = problem
            problems[title].append(label)
    # The header is a list: it may have a name twice.
    counts = Counter(info.name for info in tensors)
    for tensor, count in counts.items():
        if count > 1:
            problems["given twice"].append(tensor)
    if not problems:
        return

    lines = ""
    for title, labels in problems.items():
        names = _shorten(labels)
        lines += f"\n  {title} ({len(labels)}): {names}"
    types = ", ".join(LAYOUTS)
    raise ValueError(f"{name}: expected whole tensors of the types {types}, got{lines}")


def _find_problem(info: TensorInfo, size: int) -> tuple[str, str] | None:
    """Return what is wrong with a tensor, and how the error is to call it."""
    # Such as the k-quants of llama.cpp: their scales are in few bits as well.
    if info.type not in LAYOUTS:
        return f"type {info.type}", info.name
    if 0 in info.shape or not 1 <= len(info.shape) <= 4:
        return "empty or of no or more than 4 dimensions", f"{info.name} {info.shape}"
    # A block is of one row, so that a row is whole blocks.
    if info.type in CODECS and not _has_block_rows(info):
        title = f"not a matrix in rows of whole blocks of {BLOCK}"
        return title, f"{info.name} {info.shape}"
    if info.end > size:
        title = f"cut off, the file has {size} bytes"
        return title, f"{info.name} ends at {info.end}"
    return None


def _has_block_rows(info: TensorInfo) -> bool:
    if len(info.shape) < 2:
        return False
    return info.shape[-1] % BLOCK == 0


def _shorten(labels: list[str], limit: int = 5) -> str:
    text = ", ".join(labels[:limit])
    if len(labels) > limit:
        text += ", ..."
    return text
