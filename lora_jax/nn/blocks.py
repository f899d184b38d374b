"""The blocks of a model: stacked along a leading layer axis, and scanned.

A model's `blocks` has one of three forms:

* a stack: one block whose leaves have a leading layer axis L;
* `Stacks`: two stacks, for a method that treats the last layers differently;
* a tuple of single blocks, as generation uses them.

The functions here are the only ones that have to know which. A stack is scanned, not
unrolled, because XLA would otherwise keep every dequantized matrix alive at once: 12
layers of 1024 x 4096 need 505 MB of temporary memory unrolled and 57 MB scanned.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lora_jax import quant, tree

UNROLL = 12  # the most layers that are unrolled; the compile time grows with them


class Stacks(nnx.Module):
    """The layers of a model in two stacks: the first ones, and the last ones."""

    def __init__(self, first: Any, last: Any):
        self.first, self.last = first, last


def stacks(blocks: Any) -> tuple[Any, ...]:
    """Return the one stack or the two, in the order of the layers."""
    if isinstance(blocks, Stacks):
        return blocks.first, blocks.last
    return (blocks,)


def layer_count(blocks: Any) -> int:
    """Return the number of layers of any of the three forms."""
    if isinstance(blocks, tuple):
        return len(blocks)
    count = 0
    for stack in stacks(blocks):
        first_leaf = jax.tree.leaves(stack)[0]
        count += first_leaf.shape[0]
    return count


def should_unroll(blocks: Any) -> bool:
    """Return whether a stack is better compiled as straight code than as a loop.

    Unrolled, a step takes 0.9 of the time: a loop's residuals are zeroed, written and
    read back as stacks of layers. But unrolled, XLA would keep every matrix that it
    dequantizes for the forward pass until the backward pass; in a loop it keeps those
    of one layer.
    """
    return layer_count(blocks) <= UNROLL and not quant.quantized_leaves(blocks)


def scan_blocks(
    step: Callable, x: Any, blocks: Any, caches: Any = None, *, unroll: bool = False
) -> tuple[Any, Any]:
    """Return what `x` is after all layers, and what each layer gives beside it.

    Args:
        step: `step(x, index, block, cache) -> (x, output)`, one layer.
        x: what goes into the first layer.
        blocks: a stack, `Stacks`, or a tuple of blocks.
        caches: one value per layer, or None: a tree with a leading layer axis for
            stacks, a tuple for a tuple of blocks.
        unroll: compile a stack as straight code, not as a loop (see `should_unroll`).

    The outputs of the layers come back in the form that `caches` has.
    """
    if isinstance(blocks, tuple):
        return _loop_over_tuple(step, x, blocks, caches)

    def scanned_step(x, layer):
        return step(x, *layer)

    start = 0
    outputs = []
    for stack in stacks(blocks):
        stop = start + layer_count(stack)
        layers = jnp.arange(start, stop), stack, _slice_layers(caches, start, stop)
        x, output = jax.lax.scan(scanned_step, x, layers, unroll=unroll)
        outputs.append(output)
        start = stop
    return x, _concatenate_layers(*outputs)


def _loop_over_tuple(step, x, blocks, caches):
    outputs = []
    caches = caches or (None,) * len(blocks)
    for index, (block, cache) in enumerate(zip(blocks, caches, strict=True)):
        x, output = step(x, index, block, cache)
        outputs.append(output)
    return x, tuple(outputs)


def without_last(blocks: Any) -> tuple[Any, Any]:
    """Return all layers but the last, in the form of `blocks`, and the last block."""
    if isinstance(blocks, tuple):
        return blocks[:-1], blocks[-1]

    stack = stacks(blocks)[-1]
    last = jax.tree.map(lambda leaf: leaf[-1], stack)
    others = _slice_layers(stack, None, -1)
    if isinstance(blocks, Stacks):
        others = Stacks(blocks.first, others)
    return others, last


def split_stacks(model: Any, last: int) -> Any:
    """Return the model with its last `last` layers in a stack of their own.

    Its paths begin with `blocks/first/` and `blocks/last/`.
    """
    first_stack = _slice_layers(model.blocks, None, -last)
    last_stack = _slice_layers(model.blocks, -last, None)
    return tree.replace(model, {"blocks": Stacks(first_stack, last_stack)})


def join_stacks(model: Any) -> Any:
    """Return the model with its two stacks of layers joined into one.

    A model with one stack, or with two that are stored differently (one of them
    quantized, for example), is returned as it is.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, Stacks):
        return model
    if jax.tree.structure(blocks.first) != jax.tree.structure(blocks.last):
        return model
    joined = _concatenate_layers(blocks.first, blocks.last)
    return tree.replace(model, {"blocks": joined})


def _slice_layers(stack: Any, start: int | None, stop: int | None) -> Any:
    return jax.tree.map(lambda leaf: leaf[start:stop], stack)


def _concatenate_layers(*stacks: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)
