"""What an adaptation method is, and what holds for every method.

A method is a value: `adapt` puts its layers into a model, `trainable` names, by regex, the leaves that learn. An adapter layer
wraps the layer it adapts: it holds it as `base`, and says by `parameters()` how many numbers it really learns. If it can be
folded into that layer, it gives the plain layer with itself in it by `merged()`.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Key

from lora_jax import quant, tree
from lora_jax.nn.blocks import Stacks, join_stacks, layer_count, split_stacks

HEAD = r"^head/"  # the task's own head: it always learns, and is counted apart


class Method(NamedTuple):
    """name; adapt(key, model) -> model; trainable: regex on the paths of the leaves that learn."""

    name: str
    adapt: Callable[[Key[jax.Array, ""], Any], Any]
    trainable: str


class Counts(NamedTuple):
    """Learning parameters: the method's own and the head's."""

    adapter: int
    head: int


def mask(model: Any, method: Method, *, head: bool = True) -> Any:
    """The boolean tree of what learns: the method's leaves and the head's, or without `head` the method's outside it.

    Raises:
        ValueError: the model has no leaf of the method's, as it has not been adapted; names the leaves there are. Or what
            would learn is quantised.
    """
    tree.mask(
        model, method.trainable
    )  # a head alone would hide that the method has nothing to learn
    made = tree.mask(
        model,
        f"{method.trainable}|{HEAD}"
        if head
        else rf"^(?!{HEAD}).*(?:{method.trainable})",
    )
    if stuck := list(quant.quantized_leaves(tree.split(model, made)[0])):
        raise ValueError(
            f"{method.name}: expected to train floating-point weights, got quantised ones: {', '.join(stuck)}"
        )
    return made


def counts(model: Any, method: Method) -> Counts:
    """How many parameters of an adapted model learn (shapes suffice: the model may be abstract apart from its scales)."""
    learns = tree.leaves(tree.split(model, mask(model, method))[0])
    head = sum(leaf.size for path, leaf in learns.items() if re.search(HEAD, path))
    total = sum(leaf.size for leaf in learns.values())
    for path, layer in adapters(model).items():
        stored = sum(
            leaf.size
            for name, leaf in learns.items()
            if re.fullmatch(re.escape(path) + r"/(?!base/).*", name)
        )
        total += layer.parameters() - stored
    return Counts(total - head, head)


def adapters(model: Any) -> dict[str, Any]:
    """The adapter layers by path, those that cannot be merged too."""
    return {
        path: node
        for path, node in tree.nodes(model).items()
        if isinstance(node, nnx.Module) and hasattr(node, "base")
    }


MERGES = ("dequantized", "original", "requantized")


def merge(model: Any, *, into: str = "dequantized", original: Any = None) -> Any:
    """The model with every adapter folded into the kernel it adapts: the same function at the base's own cost.

    Adapters that are no matrix, of Adapter^H, Adapter^L and a prefix, cannot be folded and stay in place. Layers that `top` took
    apart are one stack again, if they are stored alike.
    Adapters are not lost: models never change, so the unmerged one is the value passed in.

    Args:
        into: where an adapter goes whose base is quantised. "dequantized": into the array the base stands for, the same function
            still. "requantized": that, quantised again as the base was; what rounding takes away of the adapter is lost.
            "original": into the weights of `original`, which the adapter has not been trained on.
        original: the model before it was quantised, with no adapters. All that is quantised in `model` is taken from it.

    Raises:
        ValueError: `into` is none of these, or `original` is missing, or lacks a weight that is quantised here.
    """
    if into not in MERGES:
        raise ValueError(f"into: expected one of {', '.join(MERGES)}, got {into!r}")
    if (original is not None) != (into == "original"):
        given = "none" if original is None else "one"
        raise ValueError(
            f"original: expected with into='original' and only there, got {given} with into={into!r}"
        )
    if into == "original":
        apart = isinstance(getattr(model, "blocks", None), Stacks)
        model = _exchanged(
            model,
            tree.leaves(
                split_stacks(original, layer_count(model.blocks.last))
                if apart
                else original
            ),
        )
    folded = {
        path: _merged(each, into)
        for path, each in adapters(model).items()
        if hasattr(each, "merged")
    }
    return join_stacks(tree.replace(model, folded))


def _merged(layer: Any, into: str) -> Any:
    merged, stored = (
        quant.dequantize_model(layer).merged(),
        quant.quantized_leaves(layer.base),
    )
    again = {
        path: value.quantize_like(tree.leaves(merged)[path])
        for path, value in stored.items()
    }
    return tree.replace(merged, again) if into == "requantized" else merged


def _exchanged(model: Any, originals: dict[str, Any]) -> Any:
    """The model with the original in place of each quantised value."""
    stored = quant.quantized_leaves(model)
    plain = {path: re.sub(r"(^|/)base/", r"\1", path) for path in stored}
    expected = "original: expected the model before it was quantised, without adapters"
    if absent := [path for path in plain.values() if path not in originals]:
        raise ValueError(f"{expected}; no {absent[0]} in it")
    for path, name in plain.items():
        kind = "quantised " if quant.is_quantized(originals[name]) else ""
        if kind or originals[name].shape != stored[path].shape:
            raise ValueError(
                f"{expected}; {name} is {kind}{originals[name].shape}, not {stored[path].shape}"
            )
    return tree.replace(model, {path: originals[name] for path, name in plain.items()})


def unload(model: Any) -> Any:
    """The model without its adapters: the base layers, bit for bit, for they were kept and not subtracted from."""
    while found := adapters(
        model
    ):  # there may be adapters inside of one, as LoRA in a prefix's attention
        model = tree.replace(model, {path: layer.base for path, layer in found.items()})
    return join_stacks(model)


def targets(model: Any, pattern: str, *, setting: str = "targets") -> dict[str, Any]:
    """The layers a target pattern means, by path; `setting` is what an error calls it.

    `query,value` are names of layers, each the end of a path (`attention/output`, too); anything else is a regex on paths.
    Only layers with a `kernel` or an `embedding` can be adapted, and never the head, which learns anyway.

    Raises:
        ValueError: a part of the pattern matches no layer; names the layers there are.
    """
    layers = {
        p: n
        for p, n in tree.nodes(model).items()
        if adaptable(n) and not re.search(HEAD, p + "/")
    }
    by_name = re.fullmatch(r"[\w/ ]+(,[\w/ ]+)*", pattern) is not None
    parts = (
        [rf"(^|/){part.strip()}$" for part in pattern.split(",")]
        if by_name
        else [pattern]
    )
    chosen: dict[str, Any] = {}
    for part, said in zip(
        parts, pattern.split(",") if by_name else [pattern], strict=True
    ):
        try:
            found = {
                path: node for path, node in layers.items() if re.search(part, path)
            }
        except re.error as error:
            raise ValueError(
                f"{setting}: expected layer names or a regex on paths, got {pattern!r}: {error}"
            ) from None
        if not found:
            raise ValueError(
                f"{setting}: {said!r} matches no layer; there are: {tree.near(said, list(layers))}"
            )
        chosen |= found
    return {path: node for path, node in layers.items() if path in chosen}


def adaptable(node: Any) -> bool:
    """Whether a node is a layer with a matrix: ours or flax's own `nnx.Linear` and `nnx.Embed`."""
    return not isinstance(node, jax.Array) and (
        hasattr(node, "kernel") or hasattr(node, "embedding")
    )


def key_of(key: Key[jax.Array, ""], path: str) -> Key[jax.Array, ""]:
    """The key of a path: independent of what else is adapted and in which order."""
    return jax.random.fold_in(
        key, int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    )
