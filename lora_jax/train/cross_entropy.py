"""Cross-entropy over a large vocabulary, a few tokens at a time.

The logits [B, T, V] of a whole batch never exist at once. In float32 those of 2,048
tokens would take 403 MB with SmolLM2's vocabulary of 49,152; a chunk of 256 tokens takes
50 MB. Shape letters are those of `nn/layers.py`; W is the width of a chunk in tokens.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lora_jax.nn.dense import dense, materialize_in_order

CHUNK = 256  # tokens whose logits exist at a time


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def cross_entropy(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    labels: Int[Array, "B T"],
    weight: Float[Array, "B T"],
    smoothing: float,
) -> Float[Array, ""]:
    """Return the weighted sum of the cross-entropies of the logits x kernel.

    The labels are smoothed: a share `smoothing` of the target's probability is spread
    over the vocabulary. There is no gradient by `weight`.

    Tokens without weight before a row's first and after its last weighted one are left
    out. The gradients are computed in the forward pass, while the logits of a chunk
    exist, which is one product less than computing the logits again.
    """
    total, _, _ = _loss_and_gradients(
        x, kernel, labels, weight, smoothing, of_x=False, of_kernel=False
    )
    return total


def _forward(x, kernel, labels, weight, smoothing):
    # `perturbed` says whether the argument is differentiated.
    total, dx, d_kernel = _loss_and_gradients(
        x.value,
        kernel.value,
        labels.value,
        weight.value,
        smoothing,
        of_x=x.perturbed,
        of_kernel=kernel.perturbed,
    )
    return total, (dx, d_kernel)


def _backward(smoothing, gradients, d_total):
    scaled = []
    for gradient in gradients:
        if gradient is not None:
            gradient = (gradient * d_total).astype(gradient.dtype)
        scaled.append(gradient)
    # Labels and weights get no gradient.
    return (*scaled, None, None)


# Symbolic zeros tell the forward pass which arguments are differentiated.
cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _loss_and_gradients(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    labels: Int[Array, "B T"],
    weight: Float[Array, "B T"],
    smoothing: float,
    *,
    of_x: bool,
    of_kernel: bool,
) -> tuple[Array, Array | None, Array | None]:
    """Return the loss, and its gradients by x and by the kernel where asked for."""
    rows, tokens, _ = x.shape
    width = max(1, min(tokens, CHUNK // rows))
    moved = _moved_left(x, labels, weight, width)
    # Both orders of the kernel are laid out once, not in every chunk.
    forward_kernel = materialize_in_order(kernel)
    backward_kernel = materialize_in_order(kernel.T)

    def add_chunk(index, sums):
        total, dx, d_kernel = sums
        start = index * width

        def chunk_of(array):
            return jax.lax.dynamic_slice_in_dim(array, start, width, axis=1)

        # The logits of bfloat16 states are float32.
        chunk_x = chunk_of(moved.x).astype(jnp.float32)
        # [B, W, V]
        logits = dense(chunk_x, forward_kernel)
        loss, d_logits = _loss_of_logits(
            logits.astype(jnp.float32),
            chunk_of(moved.labels),
            chunk_of(moved.weight),
            smoothing,
        )
        if of_x:
            # [B, W, D]
            chunk_dx = dense(d_logits, backward_kernel)
            chunk_dx = chunk_dx.astype(dx.dtype)
            dx = jax.lax.dynamic_update_slice_in_dim(dx, chunk_dx, start, axis=1)
        if of_kernel:
            d_kernel += _kernel_gradient(chunk_x, d_logits, kernel.dtype)
        return total + loss, dx, d_kernel

    zero_dx = jnp.zeros_like(moved.x) if of_x else None
    # Summed over the chunks in float32, whatever the kernel is stored in.
    zero_d_kernel = jnp.zeros(kernel.shape, jnp.float32) if of_kernel else None
    sums = jnp.float32(0), zero_dx, zero_d_kernel
    sums = jax.lax.fori_loop(0, moved.chunks, add_chunk, sums)
    total, dx, d_kernel = sums
    if dx is not None:
        dx = _moved_back(dx, moved.first, tokens)
    if d_kernel is not None:
        d_kernel = d_kernel.astype(kernel.dtype)
    return total, dx, d_kernel


def _kernel_gradient(
    x: Float[Array, "B W D"],
    d_logits: Float[Array, "B W V"],
    dtype: Any,
) -> Float[Array, "D V"]:
    """Return a chunk's part of the gradient by the kernel, in float32."""
    x_rows = x.reshape(-1, x.shape[-1])  # [B W, D]
    d_logit_rows = d_logits.reshape(-1, d_logits.shape[-1])  # [B W, V]
    return jnp.matmul(
        x_rows.astype(dtype).T,
        d_logit_rows.astype(dtype),
        preferred_element_type=jnp.float32,
    )


def _loss_of_logits(
    logits: Float[Array, "B W V"],
    labels: Int[Array, "B W"],
    weight: Float[Array, "B W"],
    smoothing: float,
) -> tuple[
    Float[Array, ""],
    Float[Array, "B W V"],
]:
    """Return the loss of a chunk, and its gradient by the logits."""
    vocabulary = logits.shape[-1]
    target_share = 1 - smoothing
    log_probabilities = jax.nn.log_softmax(logits)
    labels = labels[..., None]  # [B, W, 1]
    target = jnp.take_along_axis(log_probabilities, labels, -1)[..., 0]
    mean = log_probabilities.mean(-1)
    smoothed = target_share * target + smoothing * mean
    loss = -(weight * smoothed).sum()

    # The gradient is what the model says minus what it should say.
    is_target = jnp.arange(vocabulary) == labels
    probabilities = jnp.exp(log_probabilities)
    difference = probabilities - jnp.where(is_target, target_share, 0.0)
    difference = difference - smoothing / vocabulary
    d_logits = weight[..., None] * difference
    return loss, d_logits


class _Moved(NamedTuple):
    """Rows moved left by the tokens before their first weighted one.

    These begin at another token in each row, so that without the move chunks would be
    filled with tokens that do not count.
    """

    x: Float[Array, "B S D"]
    labels: Int[Array, "B S"]
    weight: Float[Array, "B S"]
    first: Int[Array, " B"]  # by how many tokens
    chunks: Any  # that hold all weighted tokens


def _moved_left(
    x: Float[Array, "B T D"],
    labels: Int[Array, "B T"],
    weight: Float[Array, "B T"],
    width: int,
) -> _Moved:
    tokens = weight.shape[1]
    is_weighted = weight != 0
    first = is_weighted.argmax(1)
    # One after the last weighted token.
    after_last = is_weighted[:, ::-1].argmax(1)
    stop = tokens - after_last
    # Of a row without any, both are meaningless.
    has_any = is_weighted.any(1)
    lengths = jnp.where(has_any, stop - first, 0)
    chunks = _divided_up(lengths.max(), width)

    padded_tokens = _divided_up(tokens, width) * width
    source = first[:, None] + jnp.arange(padded_tokens)  # [B, S]
    is_inside = source < tokens
    # What lies outside is any token, with a weight of 0.
    source = jnp.minimum(source, tokens - 1)
    moved_weight = jnp.take_along_axis(weight, source, 1)
    return _Moved(
        x=jnp.take_along_axis(x, source[..., None], 1),
        labels=jnp.take_along_axis(labels, source, 1),
        weight=jnp.where(is_inside, moved_weight, 0.0),
        first=first,
        chunks=chunks,
    )


def _moved_back(
    dx: Float[Array, "B S D"],
    first: Int[Array, " B"],
    tokens: int,
) -> Float[Array, "B T D"]:
    source = jnp.arange(tokens) - first[:, None]  # [B, T]
    # Tokens before the first weighted one have no gradient.
    is_inside = (source >= 0)[..., None]
    source = jnp.maximum(source, 0)[..., None]
    moved = jnp.take_along_axis(dx, source, 1)
    return jnp.where(is_inside, moved, 0.0)


def _divided_up(number: Any, divisor: int) -> Any:
    """Return number / divisor, rounded up to an integer."""
    return -(-number // divisor)
