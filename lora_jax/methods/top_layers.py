"""FT-Top2: only the last layers are trained, with all of their weights.

A baseline of LoRA's Tables 3, 13 and 14, after Li and Liang 2021 (arXiv 2101.00190).
"""

from numbers import Integral
from typing import Any

from lora_jax import quant, tree
from lora_jax.methods.base import Method
from lora_jax.nn.blocks import Stacks, layer_count, split_stacks


def top(top_layers: int = 2) -> Method:
    """Return the method that trains the last layers of a model.

    Embeddings, the last norm of a decoder and the pooler of an encoder stay frozen. The
    trained layers get a stack of their own (paths `blocks/last/...`), so that no gradient
    of the others is computed or stored. On a quantized base they are dequantized, because
    bits cannot be trained; the frozen layers keep theirs.

    Args:
        top_layers: Number of layers to train, counted from the last one.

    Raises:
        ValueError: `top_layers` is no integer of 1 or more; from `adapt`: it is more than
            the model has, or the model's layers are not one stack.
    """
    if not (isinstance(top_layers, Integral) and top_layers >= 1):
        raise ValueError(f"top_layers: expected an integer >= 1, got {top_layers}")

    def adapt(key, model):
        blocks = _single_stack(model)
        layers = layer_count(blocks)
        if top_layers > layers:
            raise ValueError(
                f"top_layers: expected 1 <= top_layers <= {layers}, the model's layers, "
                f"got {top_layers}"
            )
        if top_layers == layers:
            # The first stack will be empty, and an empty one cannot hold bits.
            model = tree.replace(model, {"blocks": quant.dequantize_model(blocks)})
        # From here on the model's paths are `blocks/first/...` and `blocks/last/...`.
        model = split_stacks(model, int(top_layers))
        trained = quant.dequantize_model(model.blocks.last)
        return tree.replace(model, {"blocks/last": trained})

    return Method("top", adapt, trainable=r"^blocks/last/")


def _single_stack(model: Any) -> Any:
    """Return the model's blocks; raise ValueError if they are not one stack."""
    # A model that has been adapted by `top` before has two stacks, and one that is made
    # for generation a tuple of blocks.
    blocks = getattr(model, "blocks", None)
    if blocks is None or isinstance(blocks, Stacks | tuple):
        kind = "none" if blocks is None else type(blocks).__name__
        raise ValueError(
            f"top: expected a model with one stack of layers, `blocks`, got {kind}"
        )
    return blocks
