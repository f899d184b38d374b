"""The header of a GGUF file: its metadata, and where its tensors are.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package
parses the header; we check it, so that an error names what is wrong with the file.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.gguf_reader import READER_SUPPORTED_VERSIONS, ReaderField

from lora_jax.checkpoints.gguf.blocks import BLOCK, CODECS, LAYOUTS, TensorInfo


class Header(NamedTuple):
    """A header that was read and checked, and the bytes of the file, mapped."""

    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    data: np.ndarray


class _Reader(GGUFReader):
    """The package's reader up to the tensors, which it would read in numpy's words.

    At the first tensor that is cut off it would stop with an error of numpy's.
    """

    tensor_fields: list[ReaderField]

    def _get(
        self,
        offset: int,
        dtype: Any,
        count: int = 1,
        override_order: Any = None,
    ) -> np.ndarray:
        # The package's own goes on past the end of the file, and keeps views of the
        # map: for a vocabulary of 49,152 (SmolLM2, 98 MB) that takes 2.2 s and 157 MB
        # instead of 0.6 s and 70 MB.
        size = np.dtype(dtype).itemsize * int(count)
        end = offset + size
        if end > self.data.size:
            raise EOFError(
                f"expected {size} bytes from byte {offset} on, the file has "
                f"{self.data.size}"
            )
        stored = np.asarray(self.data)[offset:end]
        return stored.view(dtype)

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        self.tensor_fields = fields


def read_header(path: Path, name: str) -> Header:
    """Return the header of the file at `path`, which errors call `name`.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no GGUF file, of another version or byte order, or damaged; or
            there are tensors that are cut off, of a type that is not read, or of one
            name, each of which is named.
    """
    _check_start(path, name)
    try:
        reader = _Reader(path)
        metadata = {}
        for key, field in reader.fields.items():
            # The file's own version and counts, which the package adds.
            if not key.startswith("GGUF."):
                metadata[key] = field.contents()
        tensors = []
        for field in reader.tensor_fields:
            tensors.append(_tensor_info(field, int(reader.data_offset)))
    # Errors of numpy, of enums, of decoding: whatever a damaged header leads to.
    except Exception as error:
        raise ValueError(
            f"{name}: the header of this GGUF file is cut short or damaged ({error}). "
            "Fetch the file again."
        ) from None
    _check_tensors(tensors, reader.data.size, name)
    return Header(metadata, tensors, reader.data)


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
    if len(version) < 4 or number in READER_SUPPORTED_VERSIONS:
        return
    expected = " or ".join(map(str, READER_SUPPORTED_VERSIONS))
    actual = f"version {number}"
    # Versions are small numbers: their low bytes are zero if the order is reversed.
    if number % 2**16 == 0:
        actual = "a big-endian one"
    raise ValueError(
        f"{name}: expected a little-endian GGUF file of version {expected}, "
        f"got {actual}"
    )


def _tensor_info(field: ReaderField, data_start: int) -> TensorInfo:
    *_, dimensions, number, offset = field.parts
    type_number = int(number[0])
    # A type that the package does not know is named by its number.
    type_name = str(type_number)
    for known in GGMLQuantizationType:
        if known.value == type_number:
            type_name = known.name
    # The file has the innermost dimension first.
    shape = tuple(reversed(dimensions.tolist()))
    start = data_start + int(offset[0])
    return TensorInfo(field.name, shape, type_name, start)


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
    if 0 in info.shape or len(info.shape) > 4:
        return "empty or of more than 4 dimensions", f"{info.name} {info.shape}"
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
