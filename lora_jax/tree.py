"""Trees by path: find and replace layers, choose leaves by regex, split and merge.

A path is the `/`-joined names from the root: `blocks/attention/query/kernel`. It is the
one naming system of the library, for adaptation targets, masks, weight decay,
checkpoints, counts and errors. Models are pytrees and never change: every function here
returns a new tree.
"""

import difflib
import math
import re
from typing import Any

import jax
import optax
from flax import nnx

Path = str
Tree = Any  # any pytree: a model, a layer, a dictionary of arrays

MAX_NAMES = 12  # in an error message


def path_name(keys: tuple) -> Path:
    """Return the name of a pytree key path: all its keys' names, joined by `/`."""
    return "/".join([_key_name(key) for key in keys])


def _key_name(key: Any) -> str:
    # jax's keys have one of these: an attribute, a key of a dictionary, an index.
    for field in ("name", "key", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key)


def _is_variable(node: Any) -> bool:
    # nnx's box around a leaf; the leaf's path ends here.
    return isinstance(node, nnx.Variable)


def is_quantized(node: Any) -> bool:
    """Return whether a node is a quantized value, in a box or not."""
    # A quantized value is one leaf: all of it is trainable or frozen.
    return hasattr(node, "dequantize")


def _is_leaf(node: Any) -> bool:
    return _is_variable(node) or is_quantized(node)


def _value(node: Any) -> Any:
    if _is_variable(node):
        return node.get_value()
    return node


def nodes(tree: Tree) -> dict[Path, Any]:
    """Return the layers and leaves below the root by path, in the tree's order.

    A leaf is returned as its array.
    """
    nodes_by_path: dict[Path, Any] = {}

    def visit(keys, node):
        # Every node passes here, asked whether it is a leaf; nnx has one of its own.
        is_root = not keys
        if not is_root and _key_name(keys[-1]) != "_pytree__state":
            path = path_name(keys)
            nodes_by_path[path] = _value(node)
        return _is_leaf(node)

    jax.tree_util.tree_flatten_with_path(
        tree,
        is_leaf=visit,
        is_leaf_takes_path=True,
    )
    return nodes_by_path


def leaves(tree: Tree) -> dict[Path, Any]:
    """Return the leaves by path.

    A quantized value is one leaf. A hole that `split` left is none.
    """
    # Where `split` left a hole, the box around it is listed, with no array in it.
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)
    leaves_by_path = {}
    for keys, leaf in pairs:
        is_hole = not jax.tree.leaves(leaf)
        if not is_hole:
            path = path_name(keys)
            leaves_by_path[path] = _value(leaf)
    return leaves_by_path


def near(name: str, candidates: list[str]) -> str:
    """Return candidate names for an error message, the closest first, at most twelve.

    Names are compared by their ends: as many parts of a path as `name` has.
    """
    part_count = name.count("/") + 1
    # `query` is to be compared with the end of `blocks/attention/query`.
    ends = {}
    for candidate in candidates:
        parts = candidate.split("/")
        ends[candidate] = "/".join(parts[-part_count:])
    possible = sorted(set(ends.values()))
    close = difflib.get_close_matches(name, possible, n=3, cutoff=0.4)

    def distance(candidate):
        end = ends[candidate]
        if end in close:
            return close.index(end)
        return len(close)

    # The sort is stable: names that are equally far keep their order.
    names = sorted(candidates, key=distance)
    text = ", ".join(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        text += f", … ({len(names)} in all)"
    return text


def find(tree: Tree, pattern: str) -> dict[Path, Any]:
    """Return the layers and leaves whose path the regex matches (`re.search`).

    Raises:
        ValueError: nothing matches, or the pattern is not a regex; lists the paths.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"expected a regular expression on paths, got {pattern!r}: {error}"
        ) from None

    nodes_by_path = nodes(tree)
    matches = {}
    for path, node in nodes_by_path.items():
        if regex.search(path):
            matches[path] = node
    # A misspelled name is an error, not an empty selection.
    if not matches:
        names = near(pattern, list(nodes_by_path))
        raise ValueError(f"{pattern!r} matches no path; there are: {names}")
    return matches


def replace(tree: Tree, new: dict[Path, Any]) -> Tree:
    """Return the tree with new nodes at the paths; all else is the same object.

    Raises:
        ValueError: a path is not in the tree; lists the closest ones.
    """
    _check_paths(tree, new)

    # A node that is replaced is a leaf to jax: nothing below it is visited.
    def is_replaced(keys, node):
        return path_name(keys) in new

    def exchange(keys, node):
        path = path_name(keys)
        value = new.get(path, node)
        # A leaf's new array goes into a box of the same kind.
        if _is_variable(node) and not _is_variable(value):
            return node.replace(value)
        return value

    return jax.tree_util.tree_map_with_path(
        exchange,
        tree,
        is_leaf=is_replaced,
        is_leaf_takes_path=True,
    )


# Checked first, for jax would ignore a path that is not there.
def _check_paths(tree: Tree, paths: dict[Path, Any]) -> None:
    known_paths = nodes(tree)
    unknown = [path for path in paths if path not in known_paths]
    if unknown:
        missing = ", ".join(unknown)
        names = near(unknown[0], list(known_paths))
        raise ValueError(f"no such path: {missing}; there are: {names}")


def mask(tree: Tree, pattern: str) -> Tree:
    """Return a tree of booleans: whether the regex matches a leaf's path (`re.search`).

    Raises:
        ValueError: no leaf matches; lists the leaves there are.
    """

    def match(keys, leaf):
        path = path_name(keys)
        is_match = re.search(pattern, path) is not None
        # The box around a leaf stays, for the mask to have the tree's structure.
        return jax.tree.map(lambda _: is_match, leaf, is_leaf=is_quantized)

    # A pattern that matches nothing would freeze the whole model in silence.
    marks = jax.tree_util.tree_map_with_path(match, tree, is_leaf=_is_leaf)
    if not any(jax.tree.leaves(marks)):
        names = near(pattern, list(leaves(tree)))
        raise ValueError(f"{pattern!r} matches no leaf; there are: {names}")
    return marks


def split(tree: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """Return (trainable, frozen), two trees with the structure of `tree`.

    Each has `optax.MaskedNode()` in the place of what the other one has.
    """
    # optax skips this node, and jax sees no leaf in it: gradients and moments of frozen
    # leaves are never allocated.
    hole = optax.MaskedNode()

    # Quantized values stay whole: one side has all their arrays, the other has none.
    def keep_trainable(leaf, is_trainable):
        return leaf if is_trainable else hole

    def keep_frozen(leaf, is_trainable):
        return hole if is_trainable else leaf

    trainable = jax.tree.map(keep_trainable, tree, mask, is_leaf=is_quantized)
    frozen = jax.tree.map(keep_frozen, tree, mask, is_leaf=is_quantized)
    return trainable, frozen


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def merge(trainable: Tree, frozen: Tree) -> Tree:
    """Return the tree that `split` took apart."""

    def fill(a, b):
        return b if _is_hole(a) else a

    return jax.tree.map(fill, trainable, frozen, is_leaf=_is_hole)


def count(tree: Tree) -> int:
    """Return the number of parameters, which may be shapes.

    Of a quantized value it is the number of those it stands for.
    """
    total = 0
    for leaf in leaves(tree).values():
        total += math.prod(leaf.shape)
    return total


def nbytes(tree: Tree) -> int:
    """Return the number of bytes of all arrays, which may be shapes."""
    # The arrays a quantized value really stores are its leaves here.
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = math.prod(leaf.shape)
        total += size * leaf.dtype.itemsize
    return total


def stack(trees: list[Tree]) -> Tree:
    """Return one tree whose leaves have a leading layer axis L, from L like trees."""

    def stack_leaves(*leaves):
        return jax.numpy.stack(leaves)

    return jax.tree.map(stack_leaves, *trees)


def unstack(tree: Tree) -> list[Tree]:
    """Return the L trees of a stacked one.

    Raises:
        ValueError: the leading axes of the leaves have different lengths.
    """
    # How many layers there are is known from the leaves alone.
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1:
        raise ValueError(
            "expected one leading layer axis of one length on every leaf, "
            f"got lengths {sorted(lengths)}"
        )
    return [_select_layer(tree, index) for index in range(lengths.pop())]


def _select_layer(tree: Tree, index: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
