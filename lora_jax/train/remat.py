"""What the backward pass computes anew, where nothing is said: chosen by memory.

To compute a block anew costs up to a third of a step's time, so it is chosen only where
what the blocks would keep does not fit. The rule is an estimate from shapes alone;
`accounting` has what a compiled step really takes.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import devices, tree
from lora_jax.nn import precision
from lora_jax.nn.attend import choose
from lora_jax.nn.visibility import Visibility
from lora_jax.train.config import TrainConfig, step_config
from lora_jax.train.step import moment_bytes

# The part of a device's memory that the estimate may fill; allocators fragment it, and
# the estimate knows nothing of the loss.
USABLE = 0.8
FLOAT32 = 4  # bytes
# Float32 numbers that a block keeps for each number that its linear layers return: the
# inputs of norms, of activations and of the layers themselves. Of a compiled Llama.
KEPT_PER_OUTPUT = 2.2


class BlockSizes(NamedTuple):
    """The numbers that the blocks of a model make of one token."""

    layers: int
    width: int  # of the input
    outputs: int  # of all linear layers of all blocks
    heads: int

    @property
    def block_outputs(self) -> float:
        return self.outputs / self.layers


def block_sizes(trainable: Any, frozen: Any) -> BlockSizes:
    """Return the sizes of the blocks of a model that was split, arrays or shapes."""
    model = tree.merge(trainable, frozen)
    outputs = 0
    # Biases, scales and adapters add nothing that is kept.
    for kernel in tree.find(model, r"^blocks/.*kernel$").values():
        *stack, _, width = kernel.shape  # [L, i, o]
        outputs += math.prod(stack) * width
    config = model.config
    return BlockSizes(config.layers, config.width, outputs, config.heads)


def activation_bytes(
    sizes: BlockSizes,
    remat: str,
    *,
    tokens: int,
    length: int,
    compute_bytes: int = FLOAT32,
    kept_bytes: int = FLOAT32,
    has_scores: bool = True,
) -> int:
    """Return about how many bytes of activations a step has at its fullest.

    Args:
        sizes: of the model's blocks.
        remat: one of `nn.blocks.REMATS`.
        tokens: of a micro-batch on one device, padding included.
        length: of a row, in tokens.
        compute_bytes: of a number that a linear layer returns.
        kept_bytes: of a number between layers.
        has_scores: whether attention makes a score of each token and each other.
    """
    # Before and after the softmax, which is in float32.
    scores = 2 * FLOAT32 * sizes.heads * length if has_scores else 0
    block = kept_bytes * KEPT_PER_OUTPUT * sizes.block_outputs + scores
    kept_of_block = tokens * block
    if remat == "none":
        return round(sizes.layers * kept_of_block)
    # All of one block exists while it is computed anew.
    inputs = sizes.layers * tokens * kept_bytes * sizes.width
    outputs = 0
    if remat == "products":
        outputs = tokens * compute_bytes * sizes.outputs
    return round(inputs + outputs + kept_of_block)


def resolved(
    config: TrainConfig,
    trainable: Any,
    frozen: Any,
    *,
    rows: int,
    length: int,
    memory: int | None,
) -> TrainConfig:
    """Return the configuration with what `auto` means for a model and a device.

    It is the fastest of `nn.blocks.REMATS` with which a step fits; where none fits, it
    is `block`, which takes the least. Without a known memory nothing is computed anew.

    Args:
        config: the training's.
        trainable, frozen: the model, split; arrays or shapes.
        rows: of a micro-batch on one device.
        length: of the longest rows, in tokens.
        memory: of one device, in bytes, if it is known.
    """
    if config.remat != "auto":
        return config
    none = replace(config, remat="none")
    if memory is None:
        return none
    free = USABLE * memory - stored_bytes(trainable, frozen)
    # From the fastest to the one that keeps least.
    for choice in (none, replace(config, remat="products")):
        if estimate(choice, trainable, frozen, rows=rows, length=length) <= free:
            return choice
    return replace(config, remat="block")


def stored_bytes(trainable: Any, frozen: Any) -> int:
    """Return the bytes of all weights, and of the gradient and moments of the trained.

    Of a model that is spread over devices they are those of one device.
    """
    weights = devices.nbytes(trainable) + devices.nbytes(frozen)
    # A gradient is stored as its leaf is; moments may be wider.
    return weights + devices.nbytes(trainable) + moment_bytes(trainable)


def estimate(
    config: TrainConfig, trainable: Any, frozen: Any, *, rows: int, length: int
) -> int:
    """Return `activation_bytes` of a step; arguments are as for `resolved`."""
    dtype = config.compute_dtype
    return activation_bytes(
        block_sizes(trainable, frozen),
        config.remat,
        tokens=rows * length,
        length=length,
        compute_bytes=jnp.dtype(precision.product_dtype(dtype)).itemsize,
        kept_bytes=jnp.dtype(precision.activation_dtype(dtype)).itemsize,
        has_scores=keeps_scores(trainable.config, config, rows=rows, length=length),
    )


def keeps_scores(sizes: Any, config: TrainConfig, *, rows: int, length: int) -> bool:
    """Return whether the attention of a training makes all its scores at once.

    `sizes` is the model's configuration; `rows` and `length` are as for `resolved`.
    """
    head_dim = getattr(sizes, "head_dim", sizes.width // sizes.heads)
    engine = step_config(config).engine
    shape = (rows, sizes.heads, length, head_dim)
    tokens: Any = jax.ShapeDtypeStruct(shape, engine.activations)
    causal = Visibility(first_query=0)
    rate = config.hidden_dropout
    return choose(tokens, tokens, causal, engine, rate=rate) == "plain"
