"""Hugging Face safetensors checkpoints, read lazily and strictly into this library's names.

Format: https://huggingface.co/docs/safetensors (header with names, dtypes, shapes; then raw little-endian bytes).
A model family says by `Rule`s where each tensor goes; anything missing, unexpected or of a wrong shape is an error.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError, deserialize, safe_open

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"BF16": "bfloat16", "BOOL": "bool"},
}


class Tensor(NamedTuple):
    """A tensor of a checkpoint, known by its header; `read()` brings the numbers."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Any]  # an array, or a quantised value where the file has one


class Rule(NamedTuple):
    """Where tensors go: a name that `pattern` matches whole is stored at `path`, its groups filled in (``\\1``).

    `layer` is the number of the group that holds the layer index, for leaves stacked over layers.
    `transpose` turns a torch ``Linear`` weight (out, in) into a kernel (in, out).
    Of several paths each gets its share of a fused tensor: so many columns (last axis, once transposed) as its leaf has, in order.
    """

    pattern: str
    path: str | tuple[str, ...]
    layer: int | None = None
    transpose: bool = False


class _Piece(NamedTuple):
    tensor: Tensor
    name: str
    transpose: bool
    columns: Any  # the index of its share of a fused tensor, else ...


# path -> layer index (None for a leaf that is not stacked) -> the piece that goes there
_Plan = dict[str, dict[int | None, _Piece]]


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


def load(
    source: Path | str | bytes | Mapping[str, Tensor],
    rules: Iterable[Rule],
    expected: Mapping[str, jax.ShapeDtypeStruct],
    *,
    ignore: Iterable[str] = (),
    optional: Iterable[str] = (r"^head/",),
    dtype: DTypeLike | None = None,
    convert: Callable[[str, Any], Any] = lambda path, numbers: numbers,
) -> dict[str, Any]:
    """The checkpoint's numbers by our paths, per-layer tensors stacked on a leading axis; shapes as in `expected`.

    The first rule that matches a tensor's name decides. Names that no rule takes are left out if one of `ignore`
    matches them whole. A path in which one of `optional` is found may be absent from the file: it is then absent from
    the result. Floating-point tensors are converted to `dtype` (None: kept as stored), and each layer's share of a leaf is
    then what `convert(path, numbers)` makes of it, an array or a tree of arrays. From files, peak memory is the result and one
    tensor.

    Raises one ValueError that lists every missing, unexpected, doubly given or wrongly shaped tensor.
    """
    found = source if isinstance(source, Mapping) else tensors(source)
    plan, problems = _plan(found, tuple(rules), expected, tuple(ignore))
    problems["missing"] = _missing(plan, expected, tuple(optional))
    if any(problems.values()):
        listed = [
            f"\n{title} ({len(lines)}):{_lines(lines)}"
            for title, lines in problems.items()
            if lines
        ]
        raise ValueError("the checkpoint does not fit the model:" + "".join(listed))
    return {
        path: _fill(path, pieces, expected[path].shape, dtype, convert)
        for path, pieces in plan.items()
    }


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
            f"{folder / INDEX} names {len(files)} files, not there:{_lines(absent)}"
        )
    shards = {file: _from_file(folder / file) for file in files}
    if lacking := [
        f"{name} in {file}" for name, file in where.items() if name not in shards[file]
    ]:
        raise ValueError(
            f"{folder / INDEX} names tensors that their files lack:{_lines(lacking)}"
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
            f"{path}: expected plain file names beside the index, refused:{_lines(unsafe)}"
        )
    return where


def _plan(
    found: Mapping[str, Tensor],
    rules: tuple[Rule, ...],
    expected: Mapping[str, Any],
    ignore: tuple[str, ...],
) -> tuple[_Plan, dict[str, list[str]]]:
    """Which piece goes where, by headers alone, and what does not fit."""
    plan: _Plan = {}
    problems = {"missing": [], "unexpected": [], "given twice": [], "wrong shape": []}
    for name, tensor in sorted(found.items()):
        what = f"{name} {tensor.shape} in {tensor.file}"
        rule, match = next(
            ((r, m) for r in rules if (m := re.fullmatch(r.pattern, name))),
            (None, None),
        )
        if rule is None or match is None:
            if not any(re.fullmatch(pattern, name) for pattern in ignore):
                problems["unexpected"].append(f"{what}: no rule takes it")
            continue
        paths = [
            match.expand(path)
            for path in ([rule.path] if isinstance(rule.path, str) else rule.path)
        ]
        layer = None if rule.layer is None else int(match[rule.layer])
        if absent := [path for path in paths if path not in expected]:
            problems["unexpected"].append(
                f"{what}: the model has no {', '.join(absent)}"
            )
            continue
        leaves = [expected[path].shape for path in paths]
        if layer is not None and layer >= leaves[0][0]:
            problems["unexpected"].append(
                f"{what}: {paths[0]} has layers 0 to {leaves[0][0] - 1}"
            )
        elif twice := [path for path in paths if layer in plan.get(path, {})]:
            problems["given twice"].append(
                f"{what}: {twice[0]} has {plan[twice[0]][layer].name} already"
            )
        else:
            shape, columns = _side_by_side(
                leaves if layer is None else [leaf[1:] for leaf in leaves]
            )
            for path, share in zip(paths, columns, strict=True):
                plan.setdefault(path, {})[layer] = _Piece(
                    tensor, name, rule.transpose, share
                )
            shape = shape[::-1] if rule.transpose else shape
            if tensor.shape != shape:
                problems["wrong shape"].append(
                    f"{what}: expected {shape} for {', '.join(paths)}"
                )
    return plan, problems


def _side_by_side(shapes: list[tuple[int, ...]]) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of a tensor made of these along the last axis, and the index of each in it."""
    if len(shapes) == 1:
        return shapes[0], [...]
    ends = list(accumulate(shape[-1] for shape in shapes))
    return (*shapes[0][:-1], ends[-1]), [
        (..., slice(*edges)) for edges in pairwise([0, *ends])
    ]


def _missing(
    plan: _Plan, expected: Mapping[str, Any], optional: tuple[str, ...]
) -> list[str]:
    missing = []
    for path, leaf in expected.items():
        have = plan.get(path, {})
        if not have and not any(re.search(pattern, path) for pattern in optional):
            missing.append(f"{path} {leaf.shape}")
        elif (
            have
            and None not in have
            and (layers := [i for i in range(leaf.shape[0]) if i not in have])
        ):
            missing.append(f"{path} {leaf.shape}: layers {', '.join(map(str, layers))}")
    return missing


def _fill(
    path: str,
    pieces: Mapping[int | None, _Piece],
    shape: tuple[int, ...],
    dtype: Any,
    convert: Any,
) -> Any:
    stored = reduce(
        jnp.promote_types, (piece.tensor.dtype for piece in pieces.values())
    )
    wanted = (
        jnp.dtype(dtype)
        if dtype is not None and jnp.issubdtype(stored, jnp.floating)
        else stored
    )
    stacked: Any = None
    for layer, piece in pieces.items():
        numbers = piece.tensor.read()
        numbers = numbers.T if piece.transpose else numbers
        if piece.columns is not ... and not isinstance(numbers, np.ndarray):
            raise ValueError(
                f"{piece.name} in {piece.tensor.file}: expected an array to cut {path} from, got a quantised one"
            )
        numbers = numbers if piece.columns is ... else numbers[piece.columns]
        made = jax.tree.map(
            np.asarray,
            convert(
                path, numbers if numbers.dtype == wanted else numbers.astype(wanted)
            ),
        )
        if layer is None:
            return made
        if stacked is None:
            stacked = jax.tree.map(
                lambda part: np.empty((shape[0], *part.shape), part.dtype), made
            )
        if jax.tree.structure(stacked) != jax.tree.structure(made):
            raise ValueError(
                f"{path}: expected every layer to be stored alike, but {piece.name} is not as those before"
            )
        jax.tree.map(
            lambda whole, part, at=layer: whole.__setitem__(at, part), stacked, made
        )
    return stacked


def _lines(lines: list[str], most: int = 10) -> str:
    more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *more])
