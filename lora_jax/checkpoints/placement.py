"""Where the tensors of a checkpoint go in a model, by rules and strictly.

A model family says by `Rule`s which tensor goes to which path of ours. Tensors of the
layers are stacked on a leading axis, torch's matrices are transposed, fused ones cut
apart. Anything missing, unexpected or of a wrong shape is an error, and one error lists
all of it before any numbers are read.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
from jax.typing import DTypeLike

from lora_jax.checkpoints.stacking import Convert, Piece, Pieces, stack
from lora_jax.checkpoints.tensor import Tensor, list_lines


class Rule(NamedTuple):
    """Where the tensors go that have a certain kind of name."""

    # Matches a tensor's name from end to end.
    pattern: str
    # Our path, with the groups of the match filled in (`\1`). Of several paths each
    # gets its share of a fused tensor: as many columns (on the last axis, once
    # transposed) as its leaf has, in this order.
    path: str | tuple[str, ...]
    # The number of the group that holds the layer index, for leaves that are stacked.
    layer: int | None = None
    # Turns a torch `Linear` weight (out, in) into a kernel (in, out).
    transpose: bool = False


# The pieces of all leaves by path.
_Plan = dict[str, Pieces]
# What does not fit, by kind.
_Problems = dict[str, list[str]]
# Our paths, and the shape and dtype that each leaf must have.
_Expected = Mapping[str, jax.ShapeDtypeStruct]
_Shape = tuple[int, ...]


def _unchanged(path: str, numbers: Any) -> Any:
    return numbers


def load(
    tensors: Mapping[str, Tensor],
    rules: Iterable[Rule],
    expected: _Expected,
    *,
    ignore: Iterable[str] = (),
    optional: Iterable[str] = (r"^head/",),
    dtype: DTypeLike | None = None,
    convert: Convert = _unchanged,
) -> dict[str, Any]:
    """Return the checkpoint's numbers by our paths, with shapes as in `expected`.

    The first rule that matches a tensor's name decides. A tensor that no rule takes is
    left out if one of the patterns `ignore` matches its name from end to end. A path
    that one of the patterns `optional` matches anywhere may be absent from the
    checkpoint, and then it is absent from the result; not half a layer, though, such as
    a weight without its bias.

    Floating-point tensors are converted to `dtype` (None keeps them as stored). Then
    `convert(path, numbers)` makes an array, or a tree of arrays, of each layer's share
    of a leaf. Peak memory is the result and one tensor, where tensors are files'.

    Raises:
        ValueError: tensors are missing, unexpected, given twice or of a wrong shape, as
            one list; or the layers of a leaf cannot be stacked.
    """
    # Names and shapes first, so that an error comes before any numbers are read.
    plan, problems = _plan(tensors, list(rules), expected, list(ignore))
    problems["missing"] = _missing(plan, expected, list(optional))
    _raise_problems(problems)
    # Then the numbers, leaf by leaf.
    result = {}
    for path, pieces in plan.items():
        result[path] = stack(path, pieces, expected[path].shape, dtype, convert)
    return result


def _raise_problems(problems: _Problems) -> None:
    """Raise one error for all problems, if there are any."""
    message = ""
    for kind, lines in problems.items():
        if not lines:
            continue
        message += f"\n{kind} ({len(lines)}):"
        message += list_lines(lines)
    if message:
        raise ValueError(f"the checkpoint does not fit the model:{message}")


def _plan(
    tensors: Mapping[str, Tensor],
    rules: list[Rule],
    expected: _Expected,
    ignore: list[str],
) -> tuple[_Plan, _Problems]:
    """Return which piece goes where, and what does not fit."""
    plan: _Plan = {}
    # In the order in which an error lists them. What is missing is known at the end.
    problems: _Problems = {
        "missing": [],
        "unexpected": [],
        "given twice": [],
        "wrong shape": [],
    }
    # Sorted, so that of a tensor given twice it is always the same that is named.
    for name, tensor in sorted(tensors.items()):
        rule = _first_rule(name, rules)
        if rule:
            problem = _add_tensor(plan, name, tensor, rule, expected)
        # Rules come first: `ignore` cannot hide a tensor that the model takes.
        elif any(re.fullmatch(pattern, name) for pattern in ignore):
            problem = None
        else:
            problem = ("unexpected", "no rule takes it")
        if problem:
            kind, text = problem
            label = f"{name} {tensor.shape} in {tensor.file}"
            problems[kind].append(f"{label}: {text}")
    return plan, problems


def _first_rule(name: str, rules: list[Rule]) -> Rule | None:
    for rule in rules:
        if re.fullmatch(rule.pattern, name):
            return rule
    return None


def _add_tensor(
    plan: _Plan,
    name: str,
    tensor: Tensor,
    rule: Rule,
    expected: _Expected,
) -> tuple[str, str] | None:
    """Put a tensor's pieces into the plan; return the kind and text of a problem."""
    paths, layer = _destination(name, rule)
    absent = [path for path in paths if path not in expected]
    if absent:
        return "unexpected", f"the model has no {', '.join(absent)}"

    # What one layer has of each leaf: its shape without the layer axis.
    shapes = [expected[path].shape for path in paths]
    if layer is not None:
        last = shapes[0][0] - 1
        if layer > last:
            return "unexpected", f"{paths[0]} has layers 0 to {last}"
        shapes = [shape[1:] for shape in shapes]

    # Two tensors for one place, such as one name with a prefix and without.
    for path in paths:
        planned = plan.get(path, {})
        if layer in planned:
            first = planned[layer].name
            return "given twice", f"{path} has {first} already"

    # Even a tensor of a wrong shape is planned: its leaf is not missing as well.
    shape, indices = _fuse(shapes)
    for path, index in zip(paths, indices, strict=True):
        piece = Piece(tensor, name, rule.transpose, index)
        plan.setdefault(path, {})[layer] = piece
    if rule.transpose:
        shape = shape[::-1]
    if tensor.shape != shape:
        return "wrong shape", f"expected {shape} for {', '.join(paths)}"
    return None


def _destination(name: str, rule: Rule) -> tuple[list[str], int | None]:
    """Return the paths a rule gives for a name that it matches, and the layer."""
    match = re.fullmatch(rule.pattern, name)
    assert match is not None
    templates = rule.path
    if isinstance(templates, str):
        templates = (templates,)
    paths = [match.expand(template) for template in templates]
    if rule.layer is None:
        return paths, None
    return paths, int(match[rule.layer])


def _fuse(shapes: list[_Shape]) -> tuple[_Shape, list[Any]]:
    """Return the shape of arrays joined on the last axis, and the index of each."""
    if len(shapes) == 1:
        return shapes[0], [...]
    indices = []
    start = 0
    for shape in shapes:
        end = start + shape[-1]
        # [..., start:end]
        indices.append((..., slice(start, end)))
        start = end
    return (*shapes[0][:-1], start), indices


def _missing(
    plan: _Plan,
    expected: _Expected,
    optional: list[str],
) -> list[str]:
    """Return a line for each path without pieces, or without those of some layers."""
    lines = []
    for path, leaf in expected.items():
        pieces = plan.get(path)
        if pieces is None:
            if not _may_be_absent(path, plan, optional):
                lines.append(f"{path} {leaf.shape}")
            continue
        # One piece is the whole of a leaf that is not stacked.
        if None in pieces:
            continue
        absent = sorted(set(range(leaf.shape[0])) - pieces.keys())
        if absent:
            layers = ", ".join(map(str, absent))
            line = f"{path} {leaf.shape}: layers {layers}"
            lines.append(line)
    return lines


def _may_be_absent(path: str, plan: _Plan, optional: list[str]) -> bool:
    if not any(re.search(pattern, path) for pattern in optional):
        return False
    layer = path.rpartition("/")[0]
    return not any(planned.rpartition("/")[0] == layer for planned in plan)
