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

from lora_jax import devices, quant, tree

# The largest number of layers that is unrolled; the time to compile grows with it.
UNROLL = 12

# Which numbers of a block are kept for the backward pass; it computes the others anew.
# Without an entry, as "none", are blocks that keep all of them.
REMAT_POLICIES = {
    # The block's input alone.
    "block": jax.checkpoint_policies.nothing_saveable,
    # And the results of linear layers, but no attention scores.
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
REMATS = ("none", *REMAT_POLICIES)


class Stacks(nnx.Module):
    """The layers of a model in two stacks: the first ones, and the last ones."""

    def __init__(self, first: Any, last: Any):
        self.first = first
        self.last = last


def stacks(blocks: Any) -> tuple[Any, ...]:
    """Return the one stack or the two, in the order of the layers."""
    if isinstance(blocks, Stacks):
        return blocks.first, blocks.last
    return (blocks,)  # a tuple of one, to be iterated over like two


def layer_count(blocks: Any) -> int:
    """Return the number of layers of any of the three forms."""
    if isinstance(blocks, tuple):
        return len(blocks)
    count = 0
    for stack in stacks(blocks):
        leaves = jax.tree.leaves(stack)
        # All leaves have the same leading axis L.
        count += leaves[0].shape[0]
    return count


def should_unroll(blocks: Any, remat: str = "none") -> bool:
    """Return whether a stack is better compiled as straight code than as a loop.

    Unrolled, a step takes 0.9 of the time: a loop's residuals are zeroed, written and
    read back as stacks of layers. But unrolled, XLA would keep every matrix that it
    dequantizes for the forward pass until the backward pass; in a loop it keeps those
    of one layer. So it would with what `remat` has computed anew.
    """
    if remat != "none":
        return False
    # The time to compile is to stay small.
    if layer_count(blocks) > UNROLL:
        return False
    return not quant.quantized_leaves(blocks)


def scan_blocks(
    step: Callable,
    x: Any,
    blocks: Any,
    caches: Any = None,
    *,
    unroll: bool = False,
    remat: str = "none",
) -> tuple[Any, Any]:
    """Return what `x` is after all layers, and what each layer returns beside it.

    One layer is `step(x, index, block, cache) -> (x, output)`. `caches` has a value for
    each layer, if any: along a leading layer axis, or in a tuple like `blocks`. So have
    the outputs. `unroll` compiles a stack as straight code, see `should_unroll`.
    `remat`, one of `REMATS`, says what the backward pass computes anew.
    """
    step = _rematerialized(step, remat)
    # Single blocks need not be alike, and cannot be scanned.
    if isinstance(blocks, tuple):
        return _loop_over_tuple(step, x, blocks, caches)
    return _scan_stacks(step, x, blocks, caches, unroll)


def _rematerialized(step: Callable, remat: str) -> Callable:
    """Return the step of which the backward pass keeps what `remat` names."""
    if remat == "none":
        return step
    # No barriers: XLA does not merge the forward and the backward loop.
    return jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=False)


def _scan_stacks(step, x, blocks, caches, unroll):
    def scanned_step(x, layer):
        index, block, cache = layer
        return step(devices.spread_rows(x), index, block, cache)

    # Indices and caches run on from one stack to the next.
    start = 0
    outputs = []
    for stack in stacks(blocks):
        stop = start + layer_count(stack)
        layers = (
            jnp.arange(start, stop),
            stack,
            _slice_layers(caches, start, stop),
        )
        # One program for a layer, run as often as the stack has layers.
        x, output = jax.lax.scan(
            scanned_step,
            x,
            layers,
            unroll=unroll,
        )
        outputs.append(output)
        start = stop
    return x, _concatenate_layers(*outputs)


def _loop_over_tuple(step, x, blocks, caches):
    # Without caches each layer gets None for its own.
    if not caches:
        caches = (None,) * len(blocks)
    outputs = []
    layers = zip(blocks, caches, strict=True)
    for index, (block, cache) in enumerate(layers):
        x, output = step(x, index, block, cache)
        outputs.append(output)
    return x, tuple(outputs)


def without_last(blocks: Any) -> tuple[Any, Any]:
    """Return all layers but the last, in the form of `blocks`, and the last block."""
    if isinstance(blocks, tuple):
        return blocks[:-1], blocks[-1]

    # The last layer is in the last of the stacks.
    *first_stacks, last_stack = stacks(blocks)
    last = jax.tree.map(lambda leaf: leaf[-1], last_stack)
    others = _slice_layers(last_stack, None, -1)
    # What is left of two stacks is two stacks again.
    if first_stacks:
        others = Stacks(first_stacks[0], others)
    return others, last


def split_stacks(model: Any, last: int) -> Any:
    """Return the model with its last `last` layers in a stack of their own.

    Its paths begin with `blocks/first/` and `blocks/last/`.
    """
    # The order of the layers stays, and so does a forward pass.
    first_stack = _slice_layers(model.blocks, None, -last)
    last_stack = _slice_layers(model.blocks, -last, None)
    blocks = Stacks(first_stack, last_stack)
    return tree.replace(model, {"blocks": blocks})


def join_stacks(model: Any) -> Any:
    """Return the model with its two stacks of layers joined into one.

    A model with one stack is returned as it is, and so is one whose stacks are stored
    differently, of which only one is quantized for example.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, Stacks):
        return model
    first_structure = jax.tree.structure(blocks.first)
    last_structure = jax.tree.structure(blocks.last)
    # One may be quantized and the other not: what `top_layers` leaves.
    if first_structure != last_structure:
        return model
    joined = _concatenate_layers(blocks.first, blocks.last)
    return tree.replace(model, {"blocks": joined})


# The layer axis is the first of every leaf, of the arrays of a quantized value too.


def _slice_layers(stack: Any, start: int | None, stop: int | None) -> Any:
    return jax.tree.map(lambda leaf: leaf[start:stop], stack)


def _concatenate_layers(*stacks: Any) -> Any:
    def concatenate(*leaves):
        return jnp.concatenate(leaves)

    return jax.tree.map(concatenate, *stacks)
