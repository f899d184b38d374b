"""Trees by path: find and replace layers, choose leaves by regex, split what learns from what is frozen.

A path is the `/`-joined names from the root: `blocks/attention/query/kernel`. It is the one naming system of the library, for
adaptation targets, masks, weight decay, checkpoints, counts and errors. Models are pytrees and never change: every function
here returns a new tree.
"""

import difflib
import math
import re
from typing import Any

import jax
import optax
from flax import nnx

Path = str
Tree = Any


def path_name(keys: tuple) -> Path:
    """The name of a pytree key path: attributes, dictionary keys and indices joined by `/`."""
    return "/".join(
        str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))
        for key in keys
    )


def _is_variable(node: Any) -> bool:
    return isinstance(
        node, nnx.Variable
    )  # nnx's box around a leaf: the leaf's path ends here


def _is_whole(node: Any) -> bool:
    return hasattr(
        node, "dequantize"
    )  # a quantised value: one leaf, frozen or not as a whole


def _is_leaf(node: Any) -> bool:
    return _is_variable(node) or _is_whole(node)


def _value(node: Any) -> Any:
    return node.get_value() if _is_variable(node) else node


def nodes(tree: Tree) -> dict[Path, Any]:
    """Every node below the root, layers and leaves, in the tree's order; a leaf is given as its array."""
    found: dict[Path, Any] = {}

    def visit(keys, node):
        if (
            keys and getattr(keys[-1], "name", None) != "_pytree__state"
        ):  # nnx's own bookkeeping
            found[path_name(keys)] = _value(node)
        return _is_leaf(node)

    jax.tree_util.tree_flatten_with_path(tree, is_leaf=visit, is_leaf_takes_path=True)
    return found


def leaves(tree: Tree) -> dict[Path, Any]:
    """The leaves by path; a quantised value is one leaf, a hole left by `split` is none."""
    pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)[0]
    return {
        path_name(keys): _value(leaf) for keys, leaf in pairs if jax.tree.leaves(leaf)
    }


def near(wanted: str, names: list[str]) -> str:
    """The names there are, for an error: those whose ends are nearest first, at most twelve."""
    parts = wanted.count("/") + 1
    ends = {name: "/".join(name.split("/")[-parts:]) for name in names}
    close = difflib.get_close_matches(
        wanted, sorted(set(ends.values())), n=3, cutoff=0.4
    )
    order = sorted(
        names,
        key=lambda name: close.index(ends[name]) if ends[name] in close else len(close),
    )
    return ", ".join(order[:12]) + (
        f", … ({len(order)} in all)" if len(order) > 12 else ""
    )


def find(tree: Tree, pattern: str) -> dict[Path, Any]:
    """Layers and leaves whose path the regex `pattern` matches (`re.search`).

    Raises:
        ValueError: nothing matches, or the pattern is no regex; names the paths there are.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"expected a regular expression on paths, got {pattern!r}: {error}"
        ) from None
    every = nodes(tree)
    found = {path: node for path, node in every.items() if regex.search(path)}
    if not found:
        raise ValueError(
            f"{pattern!r} matches no path; there are: {near(pattern, list(every))}"
        )
    return found


def replace(tree: Tree, new: dict[Path, Any]) -> Tree:
    """The tree with the nodes at the given paths exchanged; everything else is the same object.

    Raises:
        ValueError: a path is not in the tree; names the nearest ones.
    """
    every = nodes(tree)
    if unknown := [path for path in new if path not in every]:
        raise ValueError(
            f"no such path: {', '.join(unknown)}; there are: {near(unknown[0], list(every))}"
        )

    def here(keys, node):
        return path_name(keys) in new

    def exchange(keys, node):
        value = new.get(path_name(keys), node)
        return (
            node.replace(value)
            if _is_variable(node) and not _is_variable(value)
            else value
        )

    return jax.tree_util.tree_map_with_path(
        exchange, tree, is_leaf=here, is_leaf_takes_path=True
    )


def mask(tree: Tree, pattern: str) -> Tree:
    """A tree of booleans like `tree`: true where the regex `pattern` matches the leaf's path (`re.search`).

    Raises:
        ValueError: no leaf matches; names the leaves there are.
    """

    def match(keys, leaf):
        found = bool(re.search(pattern, path_name(keys)))
        return jax.tree.map(lambda _: found, leaf, is_leaf=_is_whole)

    chosen = jax.tree_util.tree_map_with_path(match, tree, is_leaf=_is_leaf)
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(
            f"{pattern!r} matches no leaf; there are: {near(pattern, list(leaves(tree)))}"
        )
    return chosen


def split(tree: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """(trainable, frozen): two trees of the same shape with `optax.MaskedNode()` in each other's places."""
    hole = optax.MaskedNode()
    trainable = jax.tree.map(
        lambda leaf, learns: leaf if learns else hole, tree, mask, is_leaf=_is_whole
    )
    frozen = jax.tree.map(
        lambda leaf, learns: hole if learns else leaf, tree, mask, is_leaf=_is_whole
    )
    return trainable, frozen


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def merge(trainable: Tree, frozen: Tree) -> Tree:
    """The whole tree again; the inverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if _is_hole(a) else a, trainable, frozen, is_leaf=_is_hole
    )


def count(tree: Tree) -> int:
    """The number of parameters (array elements; of a quantised value those it stands for) in the tree."""
    return sum(math.prod(leaf.shape) for leaf in leaves(tree).values())


def nbytes(tree: Tree) -> int:
    """Bytes of all leaves, which may be shapes."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def stack(trees: list[Tree]) -> Tree:
    """One tree whose leaves have a leading layer axis L, from L trees alike."""
    return jax.tree.map(lambda *leaf: jax.numpy.stack(leaf), *trees)


def unstack(tree: Tree) -> list[Tree]:
    """The L trees of a stacked one."""
    layers = {leaf.shape[0] for leaf in jax.tree.leaves(tree)}
    if len(layers) != 1:
        raise ValueError(
            f"expected one leading layer axis of one length on every leaf, got lengths {sorted(layers)}"
        )
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(layers.pop())]
