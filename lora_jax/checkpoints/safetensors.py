"""Hugging Face safetensors checkpoints, read lazily and strictly into this library's names.

Format: https://huggingface.co/docs/safetensors (header with names, dtypes, shapes; then raw little-endian bytes).
A model family says by `Rule`s where each tensor goes; anything missing, unexpected or of a wrong shape is an error.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from lora_jax.checkpoints.tensor import Tensor, list_lines

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"BF16": "bfloat16", "BOOL": "bool"},
}


def tensors(source: Path | str | bytes) -> dict[str, Tensor]:
    """All tensors by name, from a directory (one file, or shards with an index) or from the bytes of one file.

    Raises FileNotFoundError if the directory has no safetensors weights or lacks a shard, ValueError for a damaged
    file, an unreadable or unsafe index, or a dtype numpy cannot hold.
    """
    if isinstance(source, bytes):
        return _from_bytes(source)
    folder = Path(source)
    if (folder / SINGLE).is_file():
        return _from_file(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _from_shards(folder)
    there = (
        sorted(file.name for file in folder.iterdir())
        if folder.is_dir()
        else "no such directory"
    )
    pickles = any(folder.glob("pytorch_model*.bin*"))
    hint = (
        " Torch pickles are not read: convert them with safetensors.torch.save_file first."
        if pickles
        else ""
    )
    raise FileNotFoundError(
        f"{folder}: expected {SINGLE} or {INDEX}, found {there}.{hint}"
    )


def _from_bytes(data: bytes) -> dict[str, Tensor]:
    def read(dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
        return np.frombuffer(data, jnp.dtype(_DTYPES[dtype])).reshape(shape)

    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[assignment]
    except SafetensorError as error:
        raise ValueError(_damaged(f"{len(data)} bytes", error)) from error
    return {
        name: _tensor("bytes", name, e["shape"], e["dtype"], partial(read, **e))
        for name, e in entries
    }


def _from_file(path: Path) -> dict[str, Tensor]:
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(_damaged(str(path), error)) from error
    headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return {
        name: _tensor(
            path.name,
            name,
            header.get_shape(),
            header.get_dtype(),
            partial(file.get_tensor, name),
        )
        for name, header in headers.items()
    }


def _damaged(what: str, error: Exception) -> str:
    return f"{what}: not a whole safetensors file ({error}). It may be cut short or damaged: fetch it again."


def _tensor(
    file: str, name: str, shape: list[int], dtype: str, read: Callable[[], np.ndarray]
) -> Tensor:
    if dtype not in _DTYPES:
        raise ValueError(
            f"{file}: tensor {name} has dtype {dtype}, expected one of {', '.join(_DTYPES)}"
        )
    return Tensor(file, tuple(shape), jnp.dtype(_DTYPES[dtype]), read)


def _from_shards(folder: Path) -> dict[str, Tensor]:
    where = _index(folder / INDEX)
    files = sorted(set(where.values()))
    if absent := [file for file in files if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"{folder / INDEX} names {len(files)} files, not there:{list_lines(absent)}"
        )
    shards = {file: _from_file(folder / file) for file in files}
    if lacking := [
        f"{name} in {file}" for name, file in where.items() if name not in shards[file]
    ]:
        raise ValueError(
            f"{folder / INDEX} names tensors that their files lack:{list_lines(lacking)}"
        )
    return {name: shards[file][name] for name, file in where.items()}


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> shard's file name. Only plain names are taken: an index must not lead out of its directory."""
    try:
        where = json.loads(path.read_bytes())["weight_map"]
        unsafe = [
            f"{name} in {file!r}"
            for name, file in where.items()
            if not re.fullmatch(r"[\w-][\w.-]*", file)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f'{path}: expected {{"weight_map": {{tensor: file name}}}} as JSON ({type(error).__name__}: {error})'
        raise ValueError(message) from error
    if unsafe:
        raise ValueError(
            f"{path}: expected plain file names beside the index, refused:{list_lines(unsafe)}"
        )
    return where
