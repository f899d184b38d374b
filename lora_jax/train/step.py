"""One training step: the gradient of the trainable leaves, and AdamW's update of them.

Only the trainable tree is differentiated and seen by the optimizer. A step is compiled
once for each batch width. What varies within a sweep (learning rate, alpha, seed, ranks
that are stored alike) is data to it, so that all runs share its compilation.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from lora_jax import data, devices, tree
from lora_jax.nn import precision
from lora_jax.nn.layers import fold_key
from lora_jax.train.config import StepConfig

# `loss(model, batch, config, key)` returns the losses of a batch, summed, and over how
# many rows or tokens. The key draws the dropout; None drops nothing.
Loss = Callable[
    [Any, data.Batch, StepConfig, Key[Array, ""] | None],
    tuple[Float[Array, ""], Float[Array, ""]],
]

# Leaves without weight decay. Those of quantized or nested values have deeper paths.
NOT_DECAYED = r"(^|/)bias(/|$)|norm\w*/scale(/|$)"


@partial(
    jax.jit,
    static_argnames=("loss", "config"),
    donate_argnames=("trainable", "state"),
)
def train_step(
    trainable: Any,
    state: Any,
    frozen: Any,
    batch: data.Batch,
    rate: Float[Array, ""],
    key: Key[Array, ""],
    *,
    loss: Loss,
    config: StepConfig,
) -> tuple[Any, Any, Float[Array, ""]]:
    """Update the trainable tree once, at the learning rate `rate`.

    Returns:
        The trainable tree, the optimizer's state, and the batch's mean loss. The first
        two take the memory of those passed in, which cannot be used afterwards.
    """
    return updated(trainable, state, frozen, batch, rate, key, loss=loss, config=config)


def updated(
    trainable: Any,
    state: Any,
    frozen: Any,
    batch: data.Batch,
    rate: Float[Array, ""],
    key: Key[Array, ""],
    *,
    loss: Loss,
    config: StepConfig,
    weight_decay: Float[Array, ""] | None = None,
) -> tuple[Any, Any, Float[Array, ""]]:
    """Return what `train_step` returns, to be compiled as a part of something larger.

    A weight decay that is data stands in for that of the configuration.
    """
    value, gradients = gradient(trainable, frozen, batch, key, loss=loss, config=config)
    # Offloaded moments come for the update, when the activations are gone, and so add
    # nothing to the peak of memory.
    if config.offload:
        state = jax.device_put(state, jax.memory.Space.Device)
    transformation = optimizer(config, weight_decay)
    updates, state = transformation.update(gradients, state, trainable)
    if config.offload:
        state = jax.device_put(state, jax.memory.Space.Host)
    # Adam's updates are of the learning rate 1.
    scaled = jax.tree.map(lambda update: -rate * update, updates)
    return optax.apply_updates(trainable, scaled), state, value


def gradient(
    trainable: Any,
    frozen: Any,
    batch: data.Batch,
    key: Key[Array, ""],
    *,
    loss: Loss,
    config: StepConfig,
) -> tuple[Float[Array, ""], Any]:
    """Return the batch's mean loss, and its gradient by the trainable tree."""

    def summed_loss(trainable, batch, key):
        model = tree.merge(trainable, frozen)
        model = precision.cast_kernels(model, config.compute_dtype)
        return loss(model, batch, config, key)

    differentiated = jax.value_and_grad(summed_loss, has_aux=True)
    # Both are sums, so that micro-batches of unlike numbers of tokens weigh as they
    # should; the mean comes last.
    if config.accumulate == 1:
        (total, count), gradients = differentiated(trainable, batch, key)
    else:
        (total, count), gradients = _accumulated(
            differentiated, trainable, batch, key, config.accumulate
        )
    return total / count, jax.tree.map(lambda leaf: leaf / count, gradients)


def _accumulated(
    differentiated: Callable,
    trainable: Any,
    batch: data.Batch,
    key: Key[Array, ""],
    count: int,
) -> tuple[tuple[Array, Array], Any]:
    """Return what `differentiated` returns, summed over `count` micro-batches."""

    def split_rows(leaf):
        # Row n belongs to micro-batch n % count, so that each micro-batch is spread over
        # the devices as the batch is.
        return leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1)

    def add(sums, numbered_batch):
        index, micro_batch = numbered_batch
        result = differentiated(trainable, micro_batch, fold_key(key, index))
        return jax.tree.map(jnp.add, sums, result), None

    # A loop, so that the activations of one micro-batch exist at a time.
    zero_loss = jnp.zeros(()), jnp.zeros(())
    # Gradients of leaves in 16 bits are summed in 32.
    zero_gradients = jax.tree.map(jnp.zeros_like, widened(trainable))
    micro_batches = jnp.arange(count), jax.tree.map(split_rows, batch)
    sums, _ = jax.lax.scan(add, (zero_loss, zero_gradients), micro_batches)
    return sums


def optimizer(
    config: StepConfig, weight_decay: Float[Array, ""] | None = None
) -> optax.GradientTransformation:
    """Return AdamW without its learning rate, which each step is passed.

    The gradient is clipped by its global norm, which is that of the trainable leaves.
    A weight decay that is data stands in for that of the configuration.

    Of leaves in 16 bits moments and update are float32, as in the 32-bit AdamW of
    bitsandbytes that QLoRA trains with. In bfloat16 the second moment would stand
    still, for a thousandth less of it is rounded to itself.
    """
    decay: Any = config.weight_decay if weight_decay is None else weight_decay
    transformations = [
        optax.scale_by_adam(),
        optax.add_decayed_weights(decay, decay_mask),
    ]
    if config.clip:
        transformations.insert(0, optax.clip_by_global_norm(config.clip))
    return _in_float32(optax.chain(*transformations))


def _in_float32(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Return a transformation to which all leaves are float32, or wider as they are."""

    # The moments have the dtype of what they are made for.
    def init(trainable):
        return transformation.init(widened(trainable))

    # What it returns is float32, and rounded only when it is added.
    def update(gradients, state, trainable):
        return transformation.update(widened(gradients), state, widened(trainable))

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def widened(leaves: Any) -> Any:
    """Return the leaves with those of fewer bits than float32 in float32."""

    # float64 stays as it is.
    def widen(leaf):
        return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

    return jax.tree.map(widen, leaves)


def moment_bytes(trainable: Any) -> int:
    """Return the bytes of Adam's two moments of leaves, on one device (see `nbytes`)."""
    total = 0
    for leaf in jax.tree.leaves(trainable):
        width = jnp.promote_types(leaf.dtype, jnp.float32).itemsize
        total += 2 * devices.nbytes(leaf) * width // leaf.dtype.itemsize
    return total


def decay_mask(trainable: Any) -> Any:
    """Return booleans like `trainable`: True for matrices, not for biases and norms."""

    def is_decayed(keys, leaf):
        return not re.search(NOT_DECAYED, tree.path_name(keys))

    return jax.tree_util.tree_map_with_path(is_decayed, trainable)
