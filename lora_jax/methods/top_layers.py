"""FT-Top2: only the last layers learn, all of their weights (a baseline of LoRA's Tables 3, 13 and 14, after Li and Liang 2021,
arXiv 2101.00190)."""

from numbers import Integral

from lora_jax import quant, tree
from lora_jax.methods.base import Method
from lora_jax.nn.blocks import Stacks, layer_count, split_stacks


def top(top_layers: int = 2) -> Method:
    """The last `top_layers` layers learn; embeddings, a decoder's last norm and an encoder's pooler do not.

    They get a stack of their own (paths `blocks/last/...`), so that nothing is computed or stored for the first ones' gradients. On
    a quantised base they are dequantised, for they must learn; the first ones stay as they are.

    Raises:
        ValueError: `top_layers` is no integer >= 1; from `adapt`: more than the model has, or its layers are no single stack.
    """
    if not (isinstance(top_layers, Integral) and top_layers >= 1):
        raise ValueError(f"top_layers: expected an integer >= 1, got {top_layers}")

    def adapt(key, model):
        blocks = getattr(model, "blocks", None)
        if blocks is None or isinstance(blocks, Stacks | tuple):
            got = "none" if blocks is None else type(blocks).__name__
            raise ValueError(
                f"top: expected a model with one stack of layers, `blocks`, got {got}"
            )
        if top_layers > (most := layer_count(blocks)):
            raise ValueError(
                f"top_layers: expected 1 <= top_layers <= {most}, the model's layers, got {top_layers}"
            )
        if top_layers == most:  # of no layers at all nothing could be dequantised
            model = tree.replace(model, {"blocks": quant.dequantize_model(blocks)})
        apart = split_stacks(model, int(top_layers))
        return tree.replace(
            apart, {"blocks/last": quant.dequantize_model(apart.blocks.last)}
        )

    return Method("top", adapt, r"^blocks/last/")
