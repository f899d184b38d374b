"""Hugging Face safetensors files, read lazily: headers first, numbers when asked for.

A file is a JSON header with names, dtypes and shapes, then raw little-endian bytes
(https://huggingface.co/docs/safetensors). A large checkpoint is several such files,
the shards, with a JSON index beside them. Where the tensors go in a model is decided in
`placement`.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from lora_jax import bounded_json
from lora_jax.checkpoints.tensor import Tensor, list_lines
from lora_jax.plural import counted

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Of a header or an index: those of 100,000 tensors. More take minutes to look at.
MAX_NAMES_BYTES = 10_000_000

# The names of dtypes in a header, and numpy's.
_DTYPES = {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BF16": "bfloat16",
    "BOOL": "bool",
}


def tensors(source: Path | str | bytes) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint by name; their numbers are not read yet.

    `source` is a directory, with one file or with shards and their index, or the bytes
    of one file.

    Raises:
        FileNotFoundError: the directory has no safetensors weights, or lacks a shard.
        ValueError: a file is damaged, the index cannot be read or leads out of the
            directory, or a dtype is one that numpy cannot hold.
    """
    if isinstance(source, bytes):
        return _tensors_of_bytes(source)
    folder = Path(source)
    # A single file comes before shards, as in transformers.
    if (folder / SINGLE).is_file():
        return _tensors_of_file(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _tensors_of_shards(folder)
    raise FileNotFoundError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    """Return an error's text: what the folder has instead of safetensors weights."""
    content = "no such directory"
    if folder.is_dir():
        content = str(sorted(file.name for file in folder.iterdir()))
    message = f"{folder}: expected {SINGLE} or {INDEX}, found {content}."
    if any(folder.glob("pytorch_model*.bin*")):
        # A pickle can run code as it is read.
        message += (
            " Torch pickles are not read: convert them with "
            "safetensors.torch.save_file first."
        )
    return message


def _tensors_of_bytes(data: bytes) -> dict[str, Tensor]:
    # The package copies every tensor out of the bytes, here and at once.
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[assignment]
    except SafetensorError as error:
        raise ValueError(_damaged(f"{len(data)} bytes", error)) from error

    def read(entry: dict[str, Any]) -> np.ndarray:
        numbers = np.frombuffer(entry["data"], jnp.dtype(_DTYPES[entry["dtype"]]))
        return numbers.reshape(entry["shape"])

    result = {}
    for name, entry in entries:
        # `partial`, because a function made here would see the last entry alone.
        entry_read = partial(read, entry)
        result[name] = _tensor(
            "bytes", name, entry["shape"], entry["dtype"], entry_read
        )
    return result


def _tensors_of_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as opened:
        # The file begins with the size of its header.
        _check_names_size(str(path), int.from_bytes(opened.read(8), "little"))
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(_damaged(str(path), error)) from error
    result = {}
    # The open file is no mapping: `keys` is the only list of its names.
    for name in file.keys():  # noqa: SIM118
        # A slice is made of the header; the file stays mapped, and `read` copies out
        # of it the one tensor that is asked for.
        header = file.get_slice(name)
        shape, dtype = header.get_shape(), header.get_dtype()
        read = partial(file.get_tensor, name)
        result[name] = _tensor(path.name, name, shape, dtype, read)
    return result


def _check_names_size(source: str, size: int) -> None:
    if size > MAX_NAMES_BYTES:
        raise ValueError(
            f"{source}: expected the names of tensors in up to {MAX_NAMES_BYTES:,} "
            f"bytes, got {size:,}. The file may be damaged: fetch it again."
        )


def _damaged(source: str, error: Exception) -> str:
    return (
        f"{source}: not a whole safetensors file ({error}). It may be cut short or "
        "damaged: fetch it again."
    )


def _tensor(
    file: str, name: str, shape: list[int], dtype: str, read: Callable[[], np.ndarray]
) -> Tensor:
    # Such as the 8-bit floats, which are numbers only together with their scales.
    if dtype not in _DTYPES:
        raise ValueError(
            f"{file}: tensor {name} has dtype {dtype}, expected one of "
            f"{', '.join(_DTYPES)}"
        )
    return Tensor(file, tuple(shape), jnp.dtype(_DTYPES[dtype]), read)


def _tensors_of_shards(folder: Path) -> dict[str, Tensor]:
    # Tensor name -> file name.
    file_of_tensor = _read_index(folder / INDEX)
    files = sorted(set(file_of_tensor.values()))

    # All files that are absent first, so that one error names them together.
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder / INDEX} names {counted(len(files), 'file')}, of which these are missing:"
            f"{list_lines(absent)}"
        )

    # Only headers are read. An index may name tensors that its files do not have.
    shards = {file: _tensors_of_file(folder / file) for file in files}
    result, lacking = {}, []
    for name, file in file_of_tensor.items():
        if name in shards[file]:
            result[name] = shards[file][name]
        else:
            lacking.append(f"{name} in {file}")
    if lacking:
        raise ValueError(
            f"{folder / INDEX} names tensors that their files lack:"
            f"{list_lines(lacking)}"
        )
    return result


def _read_index(path: Path) -> dict[str, str]:
    """Return the shard's file name for each tensor's name.

    Raises:
        ValueError: the file is no index, or names a file by more than a plain name: an
            index must not lead out of its directory.
    """
    _check_names_size(str(path), path.stat().st_size)
    # JSON of another shape than expected can raise any of the errors below.
    unsafe = []
    try:
        file_of_tensor = bounded_json.parse(path.read_bytes())["weight_map"]
        for name, file in file_of_tensor.items():
            # A slash or a leading dot could lead to another directory.
            if not re.fullmatch(r"[\w-][\w.-]*", file):
                unsafe.append(f"{name} in {file!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}: expected {{"weight_map": {{tensor: file name}}}} as JSON '
            f"({type(error).__name__}: {error})"
        ) from None
    if unsafe:
        raise ValueError(
            f"{path}: expected plain file names beside the index, refused:"
            f"{list_lines(unsafe)}"
        )
    return file_of_tensor
