"""Where the tensors of a checkpoint go in a model, by rules, strictly.

A model family says by `Rule`s where each tensor goes; anything missing, unexpected or of a wrong shape is an error.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from lora_jax.checkpoints.tensor import Tensor, list_lines


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


def load(
    tensors: Mapping[str, Tensor],
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
    plan, problems = _plan(tensors, tuple(rules), expected, tuple(ignore))
    problems["missing"] = _missing(plan, expected, tuple(optional))
    if any(problems.values()):
        listed = [
            f"\n{title} ({len(lines)}):{list_lines(lines)}"
            for title, lines in problems.items()
            if lines
        ]
        raise ValueError("the checkpoint does not fit the model:" + "".join(listed))
    return {
        path: _fill(path, pieces, expected[path].shape, dtype, convert)
        for path, pieces in plan.items()
    }


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
