"""GGUF files (llama.cpp) read straight into quantised values: the blocks stay as they are, only nibbles change places.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The header is read by the `gguf` package, tensors out of its
memory map, one by one. Shapes are torch's, (out, in); a block is 32 consecutive numbers of a row.
"""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFReader, get_tensor_name_map
from gguf.gguf_reader import READER_SUPPORTED_VERSIONS, ReaderField

from lora_jax import quant, tree
from lora_jax.checkpoints.placement import Rule
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.quant import Quantized

BLOCK = 32
_KINDS = {"Q4_0": "int4", "Q4_1": "int4_affine", "Q8_0": "int8"}
_LAYOUTS = {  # of a number, or of a block
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "Q4_0": np.dtype([("scales", "<f2"), ("codes", "u1", BLOCK // 2)]),
    "Q4_1": np.dtype(
        [("scales", "<f2"), ("minima", "<f2"), ("codes", "u1", BLOCK // 2)]
    ),
    "Q8_0": np.dtype([("scales", "<f2"), ("codes", "i1", BLOCK)]),
}


class File(NamedTuple):
    """What a GGUF file holds: its metadata as plain Python values, its tensors as known by the header."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read(source: Path | str | bytes) -> File:
    """A GGUF file, by its path or its bytes; a tensor's numbers are read by its `read()`.

    That gives a numpy array (F32, F16) or a `Quantized` of numpy arrays (Q4_0, Q4_1, Q8_0); its `.T` is our kernel.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no GGUF file, of another version or byte order, damaged or cut short, or has tensors of other types
            or of one name; all such tensors are named.
    """
    if not isinstance(source, bytes):
        return _read(Path(source), str(source))
    with tempfile.NamedTemporaryFile(
        suffix=".gguf"
    ) as copy:  # the package maps files only; the map outlives the name
        copy.write(source)
        copy.flush()
        return _read(Path(copy.name), "bytes")


def with_hf_names(file: File, rules: Iterable[Rule]) -> dict[str, Tensor]:
    """The tensors by the Hugging Face names that a family's rules take, for `placement.load`; the others as they were.

    Values are not touched: of the Llama family llama.cpp has permuted the rows of query and key for its rotary embedding, head
    by head, and whoever reads that family has to know. Nor are tensors that llama.cpp leaves out (BERT's pooler) made up.

    Raises:
        ValueError: the metadata has no block count, or an architecture whose names the package does not know.
    """
    known = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
    kind = file.metadata.get("general.architecture")
    layers = file.metadata.get(f"{kind}.block_count")
    if kind not in known:
        raise ValueError(
            f"general.architecture: got {kind!r}, expected one of {tree.near(str(kind), list(known))}"
        )
    if not isinstance(layers, int):
        raise ValueError(
            f"{kind}.block_count: expected the number of layers, got {layers!r}"
        )
    taken = re.compile("|".join(f"(?:{rule.pattern})" for rule in rules))
    names = {}  # a tensor has a Hugging Face name in each family that has it: that which a rule takes is meant
    for theirs, (_, ours) in get_tensor_name_map(
        known[kind], min(layers, len(file.tensors))
    ).mapping.items():
        for leaf in ("weight", "bias"):
            if taken.fullmatch(f"{theirs}.{leaf}"):
                names[f"{ours}.{leaf}"] = f"{theirs}.{leaf}"
    return {names.get(name, name): tensor for name, tensor in file.tensors.items()}


class _Header(GGUFReader):
    """The package's reader, up to the tensors: it would stop at the first that is not whole, with numpy's words."""

    infos: list[ReaderField]

    def _get(
        self, offset: int, dtype: Any, count: int = 1, override_order: Any = None
    ) -> np.ndarray:
        # Its own goes on past the end of the file, and keeps views of the map: for a vocabulary of 49,152 (SmolLM2, 98 MB) that
        # takes 2.2 s and 157 MB instead of 0.6 s and 70 MB.
        size = np.dtype(dtype).itemsize * int(count)
        if offset + size > self.data.size:
            raise EOFError(
                f"expected {size} bytes from byte {offset} on, the file has {self.data.size}"
            )
        return np.asarray(self.data)[offset : offset + size].view(dtype)

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        self.infos = fields


class _Info(NamedTuple):
    """A tensor as the header has it."""

    name: str
    shape: tuple[int, ...]
    type: str
    start: int  # in bytes, from the start of the file

    @property
    def end(self) -> int:
        return (
            self.start
            + prod(self.shape)
            // (BLOCK if self.type in _KINDS else 1)
            * _LAYOUTS[self.type].itemsize
        )


def _read(path: Path, name: str) -> File:
    _check_start(path, name)
    try:
        header = _Header(path)
        facts = {
            key: field.contents()
            for key, field in header.fields.items()
            if not key.startswith("GGUF.")
        }
        infos = [_info(field, header.data_offset) for field in header.infos]
    except (
        Exception
    ) as error:  # of numpy, of enums, of text: whatever a damaged header leads to
        raise ValueError(
            f"{name}: the header of this GGUF file is cut short or damaged ({error}). Fetch the file again."
        ) from None
    _check(infos, header.data.size, name)
    return File(
        facts,
        {info.name: _tensor(info, header.data, Path(name).name) for info in infos},
    )


def _check_start(path: Path, name: str) -> None:
    with path.open("rb") as file:
        magic, version = file.read(4), file.read(4)
    if magic != b"GGUF":
        raise ValueError(
            f"{name}: expected a GGUF file, which begins with b'GGUF', got one that begins with {magic!r}"
        )
    number = int.from_bytes(version, "little")
    if len(version) == 4 and number not in READER_SUPPORTED_VERSIONS:
        got = "a big-endian one" if number % 2**16 == 0 else f"version {number}"
        expected = " or ".join(map(str, READER_SUPPORTED_VERSIONS))
        raise ValueError(
            f"{name}: expected a little-endian GGUF file of version {expected}, got {got}"
        )


def _info(field: ReaderField, data: int) -> _Info:
    *_, dims, number, offset = field.parts
    types = {kind.value: kind.name for kind in GGMLQuantizationType}
    shape = tuple(reversed(dims.tolist()))  # the file has the innermost first
    return _Info(
        field.name,
        shape,
        types.get(int(number[0]), str(number[0])),
        int(data) + int(offset[0]),
    )


def _check(infos: list[_Info], size: int, name: str) -> None:
    problems = defaultdict(list)
    for info in infos:
        if info.type not in _LAYOUTS:
            problems[f"type {info.type}"].append(info.name)
        elif 0 in info.shape or len(info.shape) > 4:
            problems["empty or of more than 4 dimensions"].append(
                f"{info.name} {info.shape}"
            )
        elif info.type in _KINDS and (len(info.shape) < 2 or info.shape[-1] % BLOCK):
            problems[f"not a matrix in rows of whole blocks of {BLOCK}"].append(
                f"{info.name} {info.shape}"
            )
        elif info.end > size:
            problems[f"cut off, the file has {size} bytes"].append(
                f"{info.name} ends at {info.end}"
            )
    problems["given twice"] = [
        each
        for each, times in Counter(info.name for info in infos).items()
        if times > 1
    ]
    listed = [
        f"\n  {title} ({len(each)}): {_some(each)}"
        for title, each in problems.items()
        if each
    ]
    if listed:
        raise ValueError(
            f"{name}: expected whole tensors of the types {', '.join(_LAYOUTS)}, got{''.join(listed)}"
        )


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _tensor(info: _Info, data: np.ndarray, file: str) -> Tensor:
    dtype = np.dtype("float32") if info.type in _KINDS else _LAYOUTS[info.type]
    return Tensor(file, info.shape, dtype, partial(_values, info, data))


def _values(info: _Info, data: np.ndarray) -> Any:
    stored = np.asarray(data)[info.start : info.end].view(_LAYOUTS[info.type])
    if info.type not in _KINDS:
        return stored.reshape(info.shape).copy()
    *stack, rows, columns = info.shape
    parts: dict[str, Any] = {
        name: quant.check_finite(stored[name], info.name)
        for name in stored.dtype.names or ()
    }
    if info.type != "Q8_0":
        parts["codes"] = _neighbours(parts["codes"])
    arrays = {
        name: np.ascontiguousarray(part).reshape(*stack, -1)
        for name, part in parts.items()
    }
    return Quantized(
        **{"minima": None, **arrays},
        codec=_KINDS[info.type],
        block=BLOCK,
        stored=(rows, columns),
    )


def _neighbours(codes: np.ndarray) -> np.ndarray:
    """Blocks of 16 bytes whose low nibbles are numbers 0 to 15 and high ones 16 to 31 -> neighbours in a byte, first one high."""
    even, odd = codes[:, ::2], codes[:, 1::2]
    return np.concatenate([even << 4 | odd & 15, even & 240 | odd >> 4], axis=1)
