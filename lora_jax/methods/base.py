"""What an adaptation method is, and what holds for every method.

A method is a value: `adapt` puts its adapter layers into a model, and `trainable` names
the trainable leaves by a regex on their paths. An adapter layer wraps the layer that it
adapts. It holds that layer as `base`, and its `parameters()` returns how many numbers
are trained in it. If it can be folded into the layer, `merged()` returns the plain layer
that computes the same. Leaves that are settings and never trained, such as LoRA's
alpha/r, are named by the class as `CONSTANTS`.

A model may have adapters of several methods, such as prefixes and LoRA: each method's
mask and counts are those of its own leaves.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Key

from lora_jax import quant, tree

# The task's own head. It is trained with every method, and counted apart, as the paper's
# numbers of trainable parameters leave it out.
HEAD = r"^head/"


class Method(NamedTuple):
    """An adaptation method with its options chosen."""

    name: str
    # adapt(key, model) -> adapted model
    adapt: Callable[[Key[jax.Array, ""], Any], Any]
    trainable: str  # regex on the paths of leaves


class Counts(NamedTuple):
    """The number of trainable parameters."""

    adapter: int  # the method's own
    head: int


def mask(model: Any, method: Method, *, head: bool = True) -> Any:
    """Return booleans like the model: which leaves are trainable.

    Args:
        model: a model that `method` has adapted.
        method: the adaptation method.
        head: whether the task's head is trained too. Without it the mask is False there,
            even where the method's own pattern matches.

    Raises:
        ValueError: the model has no leaf of the method, because it has not been adapted;
            lists the leaves. Or a quantized leaf would be trainable.
    """
    # Checked by itself, because the head alone would always match.
    tree.mask(model, method.trainable)
    pattern = f"{method.trainable}|{HEAD}"
    if not head:
        pattern = rf"^(?!{HEAD}).*(?:{method.trainable})"
    chosen = tree.mask(model, pattern)
    # Even full fine-tuning of an adapted model leaves alpha/r alone.
    constants = dict.fromkeys(_constants(model), False)
    chosen = tree.replace(chosen, constants)
    # Bits have no gradient.
    trainable, _ = tree.split(model, chosen)
    quantized = quant.quantized_leaves(trainable)
    if quantized:
        raise ValueError(
            f"{method.name}: expected to train floating-point weights, got quantized "
            f"ones: {', '.join(quantized)}"
        )
    return chosen


def counts(model: Any, method: Method) -> Counts:
    """Return how many parameters of an adapted model are trainable.

    Shapes suffice: apart from the scales of LoRA layers the model may be abstract.
    """
    trainable, _ = tree.split(model, mask(model, method))
    leaves = tree.leaves(trainable)
    head = 0
    adapter = 0
    for path, leaf in leaves.items():
        if re.search(HEAD, path):
            head += leaf.size
        else:
            adapter += leaf.size

    # A layer may store more than is trained, such as ranks that are padded with zeros.
    for path, layer in adapters(model).items():
        # Its own leaves; those of the layer that it wraps are below `base`.
        stored = re.compile(re.escape(path) + r"/(?!base/)")
        sizes = []
        for leaf_path, leaf in leaves.items():
            if stored.match(leaf_path):
                sizes.append(leaf.size)
        # A layer of another method has none that this one trains.
        if sizes:
            adapter += layer.parameters() - sum(sizes)
    return Counts(adapter, head)


def adapters(model: Any) -> dict[str, Any]:
    """Return the adapter layers by path, including those that cannot be merged."""
    layers = {}
    # In the tree's order, so an adapter comes before those inside of it.
    for path, node in tree.nodes(model).items():
        if isinstance(node, nnx.Module) and hasattr(node, "base"):
            layers[path] = node
    return layers


def check_first(model: Any, name: str, *kinds: type) -> None:
    """Check that a model has no adapters of these kinds, which a method would add.

    A method's leaves are known by their names, so those of an earlier adaptation would
    be trained and counted with the new ones.

    Raises:
        ValueError: the model has some; names them.
    """
    paths = []
    for path, layer in adapters(model).items():
        if isinstance(layer, kinds):
            paths.append(path)
    if paths:
        raise ValueError(
            f"{name}: expected a model without adapters of this kind, got some at "
            f"{', '.join(paths)}; fold them in with methods.merge, or take them off "
            "with methods.unload"
        )


def _constants(model: Any) -> list[str]:
    """The paths of leaves that no method trains."""
    paths = []
    for path, layer in adapters(model).items():
        for name in getattr(layer, "CONSTANTS", ()):
            paths.append(f"{path}/{name}")
    return paths


def targets(
    model: Any,
    pattern: str,
    *,
    setting: str = "targets",
) -> dict[str, Any]:
    """Return the layers that a target pattern selects, by path, in the model's order.

    Only layers with a `kernel` or an `embedding` can be adapted, and never the head,
    which is trained anyway.

    Args:
        model: the model to adapt.
        pattern: names of layers separated by commas (`query,value`), each the end of a
            path, such as `attention/output`; anything else is a regex on paths.
        setting: what an error calls the pattern.

    Raises:
        ValueError: the pattern is no regex, or a part of it matches no layer; lists the
            layers of the model.
    """
    layers = _adaptable_layers(model)
    selected = set()
    for part, expression in _parts(pattern):
        try:
            regex = re.compile(expression)
        except re.error as error:
            raise ValueError(
                f"{setting}: expected layer names or a regex on paths, got {pattern!r}: "
                f"{error}"
            ) from None
        matches = [path for path in layers if regex.search(path)]
        if not matches:
            candidates = tree.near(part, list(layers))
            raise ValueError(
                f"{setting}: {part!r} matches no layer; there are: {candidates}"
            )
        selected.update(matches)
    # Parts may overlap, and their order does not count.
    return {path: layers[path] for path in layers if path in selected}


def _adaptable_layers(model: Any) -> dict[str, Any]:
    layers = {}
    for path, node in tree.nodes(model).items():
        # The head may be a layer itself, or hold several.
        is_head = re.search(HEAD, f"{path}/")
        if is_adaptable(node) and not is_head:
            layers[path] = node
    return layers


def _parts(pattern: str) -> list[tuple[str, str]]:
    """Return the parts of a target pattern, each as it was written and as a regex."""
    # Without any of a regex's own characters it is a list of names.
    if not re.fullmatch(r"[\w/ ]+(,[\w/ ]+)*", pattern):
        return [(pattern, pattern)]
    parts = []
    for name in pattern.split(","):
        # A name is the end of a path.
        parts.append((name, rf"(^|/){name.strip()}$"))
    return parts


def is_adaptable(node: Any) -> bool:
    """Return whether a node is a layer with a matrix.

    Such are this library's layers and flax's own `nnx.Linear` and `nnx.Embed`.
    """
    # Leaves are nodes too, but no layers.
    if isinstance(node, jax.Array):
        return False
    return hasattr(node, "kernel") or hasattr(node, "embedding")


def matrix_name(layer: Any) -> str:
    """Return what the layer's matrix is called, "kernel" or "embedding"."""
    return "kernel" if hasattr(layer, "kernel") else "embedding"


def path_key(key: Key[jax.Array, ""], path: str) -> Key[jax.Array, ""]:
    """Return the key of a path.

    It is independent of what else is adapted, and in which order.
    """
    digest = hashlib.sha256(path.encode()).digest()
    # `fold_in` takes 32 bits.
    number = int.from_bytes(digest[:4], "big")
    return jax.random.fold_in(key, number)
