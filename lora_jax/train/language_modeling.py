"""The loss of a language model, without the logits of a whole batch: [B, T, V] in float32 would be 403 MB for 2,048 tokens of
SmolLM2's vocabulary of 49,152; the chunks here take 50 MB.

A batch's `segments` are 1 at the tokens that the loss is about: those of the target, its end included, or all of them.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lora_jax import data, devices, quant
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.nn.dense import dense, materialize_in_order
from lora_jax.train.config import StepConfig

CHUNK = 256  # tokens whose logits there are at a time


def loss(
    model: Decoder,
    batch: data.Batch,
    config: StepConfig,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the cross-entropy of the target tokens, summed, and their number.

    Label smoothing spreads its share of the target's probability over the vocabulary.
    The product with the head is computed in the configured dtype.
    """
    # [B, T, D]
    x = model.hidden(batch.tokens, batch.length, rate=config.hidden_dropout, key=key)
    is_text = jnp.arange(batch.tokens.shape[1]) < batch.length[:, None]
    is_target = is_text & (batch.segments == 1)
    target_weight = is_target * batch.weight[:, None]
    # Position t predicts the token at t + 1, and the last position nothing.
    weight = jnp.pad(target_weight, [(0, 0), (0, 1)])[:, 1:]
    labels = jnp.pad(batch.tokens, [(0, 0), (0, 1)])[:, 1:]
    kernel = model.head().astype(config.compute_dtype)
    if quant.is_quantized(kernel):
        kernel = kernel.dequantize()
    total = cross_entropy(x, kernel, labels, weight, config.label_smoothing)
    return total, weight.sum()


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def cross_entropy(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "D V"],
    labels: Int[Array, "B T"],
    weight: Float[Array, "B T"],
    smoothing: float,
) -> Float[Array, ""]:
    """The weighted sum of the cross-entropies of logits x kernel with labels smoothed by `smoothing`; no gradient by `weight`.

    A few tokens of each row at a time, from the first to the last that have a weight. The gradients are made on the way, while a
    chunk's logits are there: that is one product less than making the logits again.
    """
    return _chunks(x, kernel, labels, weight, smoothing, of_x=False, of_kernel=False)[0]


def _forward(x, kernel, labels, weight, smoothing):
    total, dx, dkernel = _chunks(
        x.value,
        kernel.value,
        labels.value,
        weight.value,
        smoothing,
        of_x=x.perturbed,
        of_kernel=kernel.perturbed,
    )
    return total, (dx, dkernel)


def _backward(smoothing, gradients, d):
    return (
        *(
            None if each is None else (each * d).astype(each.dtype)
            for each in gradients
        ),
        None,
        None,
    )


cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _chunks(x, kernel, labels, weight, smoothing, *, of_x: bool, of_kernel: bool):
    """(loss, its gradient by x or None, by the kernel or None)."""
    rows, tokens, d = x.shape
    width = max(1, min(tokens, CHUNK // rows))
    # What is asked for begins at another token in each row: each row is moved to the left by that, so that chunks are full.
    first = (weight != 0).argmax(1)
    last = tokens - (weight != 0)[:, ::-1].argmax(1)
    any_ = (weight != 0).any(1)
    count = -(-jnp.where(any_, last - first, 0).max() // width)
    place = first[:, None] + jnp.arange(-(-tokens // width) * width)
    inside, place = place < tokens, jnp.minimum(place, tokens - 1)
    left, wanted = (
        jnp.take_along_axis(
            each, place.reshape(*place.shape, *[1] * (each.ndim - 2)), 1
        )
        for each in (x, labels)
    )
    counted = jnp.where(inside, jnp.take_along_axis(weight, place, 1), 0.0)

    forward, backward = materialize_in_order(kernel), materialize_in_order(kernel.T)

    def chunk(i, sums):
        total, dx, dkernel = sums
        at, label, w = (
            jax.lax.dynamic_slice_in_dim(each, i * width, width, 1)
            for each in (left, wanted, counted)
        )
        logits = dense(at, forward).astype(jnp.float32)
        logs = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(logs, label[..., None], -1)[..., 0]
        total += -(w * ((1 - smoothing) * right + smoothing * logs.mean(-1))).sum()
        hit = jnp.arange(logits.shape[-1]) == label[..., None]
        slope = w[..., None] * (
            jnp.exp(logs)
            - jnp.where(hit, 1 - smoothing, 0.0)
            - smoothing / logits.shape[-1]
        )
        if of_x:
            dx = jax.lax.dynamic_update_slice_in_dim(
                dx, dense(slope, backward).astype(dx.dtype), i * width, 1
            )
        if of_kernel:
            flat = at.reshape(-1, d).astype(kernel.dtype).T
            dkernel += jnp.matmul(
                flat,
                slope.reshape(-1, slope.shape[-1]).astype(kernel.dtype),
                preferred_element_type=jnp.float32,
            )
        return total, dx, dkernel

    start = (
        jnp.float32(0),
        jnp.zeros_like(left) if of_x else None,
        jnp.zeros(kernel.shape, jnp.float32) if of_kernel else None,
    )
    total, dx, dkernel = jax.lax.fori_loop(0, count, chunk, start)
    if of_x:  # back to where they were
        back = jnp.arange(tokens) - first[:, None]
        dx = jnp.where(
            (back >= 0)[..., None],
            jnp.take_along_axis(dx, jnp.maximum(back, 0)[..., None], 1),
            0.0,
        )
    return total, dx, None if dkernel is None else dkernel.astype(kernel.dtype)


@partial(jax.jit, static_argnames="compute_dtype")
def _loss(model, batch, compute_dtype):
    return loss(model, batch, StepConfig(compute_dtype=compute_dtype))


def evaluate(
    model: Decoder,
    encoded: data.Encoded,
    *,
    size: int,
    widths: Sequence[int],
    pad: int,
    compute_dtype: str,
) -> dict[str, float]:
    """{"loss": nats a token, "perplexity"} over the tokens that the loss is about, without smoothing or dropout."""
    mesh = devices.mesh(size)
    model = devices.replicate(precision.cast_kernels(model, compute_dtype), mesh)
    batches = data.batches(encoded, size=size, widths=widths, seed=None, pad=pad)
    sums = [
        _loss(model, devices.shard_rows(batch, mesh), compute_dtype)
        for batch in batches
    ]
    total, count = np.sum(np.asarray(sums, float), axis=0)
    return {"loss": float(total / count), "perplexity": float(np.exp(total / count))}
