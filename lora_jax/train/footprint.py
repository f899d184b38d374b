"""What a training step has in memory beside weights and moments, by formula.

A step has two full moments: the loss, while the logits of a chunk of tokens exist, and
the backward pass in a block. Nothing is fitted: the terms follow from the layers, and
what XLA does beside was read from the buffers of compiled steps, for CPUs and for GPUs.
Other accelerators are taken for GPUs.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_jax import tree
from lora_jax.train.block_memory import (
    all_kept,
    cast_matrices,
    copied_matrices,
    one_block,
)
from lora_jax.train.config import StepConfig
from lora_jax.train.cross_entropy import CHUNK
from lora_jax.train.kept import FLOAT32
from lora_jax.train.step_shape import StepShape, step_shape

# XLA's compiler for GPUs fills a vocabulary up to a multiple of this.
GPU_MULTIPLE = 64


class Moment(NamedTuple):
    """Bytes at a full moment, beside what is stored and the optimizer's moments."""

    activations: int
    copies: int  # matrices that are laid out or converted for products
    gradients: int  # that are allocated then

    @property
    def total(self) -> int:
        return sum(self)


class _Head(NamedTuple):
    """The matrix of a decoder's logits."""

    vocabulary: int
    numbers: int
    is_tied: bool  # to the token embedding
    is_trained: bool


def moments(
    trainable: Any, frozen: Any, config: StepConfig, *, rows: int, length: int
) -> list[Moment]:
    """Return the backward pass in a block and, of a decoder, the loss.

    Args:
        trainable, frozen: the model, split; arrays or shapes.
        config: the step's; without a backend it is for this process's.
        rows: of a micro-batch on one device.
        length: of the longest rows, in tokens, padding included.
    """
    step = step_shape(trainable, frozen, config, rows=rows, length=length)
    kept = all_kept(step)
    copies = copied_matrices(step)
    of_blocks, others = _early_gradients(step)
    block = Moment(kept + one_block(step), copies, of_blocks + others)
    if not step.sizes.is_decoder:
        return [block]
    head = _head(trainable, frozen)
    # Summed over chunks in float32: the sum before and after one.
    gradients = 2 * FLOAT32 * head.numbers if head.is_trained else 0
    # A loop allocates its gradients early, but not those of matrices that it casts.
    if not step.is_unrolled and not cast_matrices(step):
        gradients += of_blocks
    loss = Moment(
        kept + _loss_bytes(step, head), copies + _head_bytes(step, head), gradients
    )
    return [block, loss]


def fullest(
    trainable: Any, frozen: Any, config: StepConfig, *, rows: int, length: int
) -> Moment:
    """Return the fullest of the `moments` of a step; the arguments are the same."""
    full = moments(trainable, frozen, config, rows=rows, length=length)
    return max(full, key=lambda moment: moment.total)


def _early_gradients(step: StepShape) -> tuple[int, int]:
    """Bytes of gradients of the blocks, and of other leaves, in the block before last.

    A loop allocates the gradients of all blocks at its start. Unrolled blocks allocate
    one after the other.
    """
    inside = _of_blocks(step.trainable)
    # Embeddings and head, if they are trained.
    others = tree.nbytes(step.trainable) - tree.nbytes(inside)
    if step.is_unrolled:
        return tree.nbytes(inside) // step.sizes.layers, others
    return unscaled_gradients(inside, step.product_bytes), others


def unscaled_gradients(trainable: Mapping[str, Any], product_bytes: int) -> int:
    """Return the bytes of gradients before they are divided by the batch's size.

    Those of the blocks' matrices have the dtype of products, of so many bytes.
    `trainable` has the leaves by path.
    """
    total = tree.nbytes(dict(trainable))
    for path, leaf in _of_blocks(trainable).items():
        if path.endswith("kernel"):
            narrowing = max(0, leaf.dtype.itemsize - product_bytes)
            total -= narrowing * leaf.size
    return total


def _of_blocks(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {path: leaf for path, leaf in leaves.items() if path.startswith("blocks/")}


def _head(trainable: Any, frozen: Any) -> _Head:
    is_tied = tree.merge(trainable, frozen).lm_head is None
    part = "embed/tokens" if is_tied else "lm_head"
    is_trained = any(path.startswith(part) for path in tree.leaves(trainable))
    config = trainable.config
    numbers = config.vocabulary * config.width
    return _Head(config.vocabulary, numbers, is_tied, is_trained)


def _loss_bytes(step: StepShape, head: _Head) -> int:
    """Activations at the loss, beside what all blocks keep."""
    width = max(1, min(step.length, CHUNK // step.rows))
    logits = step.rows * width * head.vocabulary
    # Logits, their exponentials and their gradient, which is a factor of a product. A
    # GPU has the exponentials in no memory.
    wide = 2 * FLOAT32 if step.on_cpu else FLOAT32
    # The last states, those moved left, and their gradient.
    states = 3 * step.kept_bytes * step.sizes.width * step.tokens
    return (wide + step.product_bytes) * logits + states


def _head_bytes(step: StepShape, head: _Head) -> int:
    """The head in the orders of axes that its two products read."""
    if not step.on_cpu:
        # One of the two; a padded vocabulary is another copy.
        copies = 1 + (head.vocabulary % GPU_MULTIPLE > 0)
    elif step.is_narrow:
        # `materialize_in_order` of all that is a transpose, and of what was cast.
        copies = 2 if head.is_tied else 1
    else:
        # A single row's product reads the transpose as it is.
        copies = int(head.is_tied and step.rows > 1)
    return copies * step.product_bytes * head.numbers
