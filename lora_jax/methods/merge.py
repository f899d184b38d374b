"""Models without adapters: merged into the weights they adapt, or taken off again.

Models never change, so neither loses anything: the adapted model is still the value that
was passed in.
"""

import re
from typing import Any

from lora_jax import quant, tree
from lora_jax.methods.base import adapters
from lora_jax.nn.blocks import Stacks, join_stacks, layer_count, split_stacks

# What an adapter of a quantized matrix can be merged into.
MERGES = ("dequantized", "original", "requantized")


def merge(model: Any, *, into: str = "dequantized", original: Any = None) -> Any:
    """Return the model with every adapter folded into the matrix that it adapts.

    It computes the same function at the cost of the plain model. Adapters that are no
    matrix (Adapter^H, Adapter^L, prefixes) cannot be folded and stay in place. Layers
    that `top` put into a stack of their own are joined to the others again, if they are
    stored alike.

    Args:
        model: an adapted model.
        into: what an adapter of a quantized matrix is folded into. "dequantized" is the
            array that the matrix stands for: the same function. "requantized" is that
            array, quantized again as the matrix was: what rounding takes away of the
            adapter is lost. "original" is the matrix of `original`, beside which the
            adapter has not been trained.
        original: the model before it was quantized, without adapters, for
            into="original" alone. Every quantized weight of `model` is taken from it.

    Raises:
        ValueError: `into` is none of these; `original` is missing, is not expected, or
            lacks a weight that is quantized in `model`.
    """
    _check_options(into, original)
    if into == "original":
        model = _with_originals(model, original)
    merged_layers = {}
    # Adapters that are no matrix have no `merged` and stay.
    for path, layer in adapters(model).items():
        if hasattr(layer, "merged"):
            merged_layers[path] = _merged_layer(layer, into)
    merged = tree.replace(model, merged_layers)
    return join_stacks(merged)


def unload(model: Any) -> Any:
    """Return the model without its adapters: the base layers, bit for bit."""
    # Adapters may hold others, as a prefix's attention holds those of LoRA.
    while layers := adapters(model):
        bases = {}
        for path, layer in layers.items():
            bases[path] = layer.base
        model = tree.replace(model, bases)
    return join_stacks(model)


def _check_options(into: str, original: Any) -> None:
    if into not in MERGES:
        candidates = ", ".join(MERGES)
        raise ValueError(f"into: expected one of {candidates}, got {into!r}")
    if (into == "original") != (original is not None):
        amount = "none" if original is None else "one"
        raise ValueError(
            "original: expected with into='original' and only there, "
            f"got {amount} with into={into!r}"
        )


def _merged_layer(layer: Any, into: str) -> Any:
    # Without a quantized matrix in it the layer stays as it is.
    merged = quant.dequantize_model(layer).merged()
    if into != "requantized":
        return merged
    # Those that the base stores in bits, by path.
    arrays = tree.leaves(merged)
    quantized = quant.quantized_leaves(layer.base)
    requantized = {}
    for path, value in quantized.items():
        # In the format and with the block size that the base has.
        requantized[path] = value.quantize_like(arrays[path])
    return tree.replace(merged, requantized)


def _with_originals(model: Any, original: Any) -> Any:
    """Return the model with the original weight in place of each quantized one."""
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, Stacks):
        # `top` has taken the model's blocks apart, but not the original's.
        last = layer_count(blocks.last)
        original = split_stacks(original, last)
    originals = tree.leaves(original)
    # Only what is quantized is replaced; trained leaves stay trained.
    quantized = quant.quantized_leaves(model)
    replacements = {}
    for path, value in quantized.items():
        # The original has no adapters, hence no `base` in its paths.
        base_part = r"(^|/)base/"
        original_path = re.sub(base_part, r"\1", path)
        weight = originals.get(original_path)
        _check_original(original_path, weight, value)
        replacements[path] = weight
    return tree.replace(model, replacements)


def _check_original(path: str, weight: Any, quantized: Any) -> None:
    expected = "original: expected the model before it was quantized, without adapters"
    if weight is None:
        raise ValueError(f"{expected}; no {path} in it")
    shapes = f"{weight.shape}, not {quantized.shape}"
    if quant.is_quantized(weight):
        raise ValueError(f"{expected}; {path} is quantized {shapes}")
    if weight.shape != quantized.shape:
        raise ValueError(f"{expected}; {path} is {shapes}")
