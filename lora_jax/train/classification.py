"""Labels of texts: the loss of a classifier or regressor, and its predictions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from lora_jax import data, devices
from lora_jax.nn import precision


def loss(
    model: Any,
    batch: Any,
    *,
    smoothing: float = 0.0,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The losses of a batch's rows, summed, and their number."""
    logits = model(batch.tokens, batch.segments, batch.length, rate=rate, key=key)
    return jnp.sum(losses(logits, batch.label, smoothing) * batch.weight), jnp.sum(
        batch.weight
    )


def losses(
    logits: Float[Array, "B C"], label: Array, smoothing: float
) -> Float[Array, " B"]:
    """Each row's loss: squared error for one output, cross-entropy with smoothed labels for more."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] - label) ** 2
    wanted = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, wanted)


@jax.jit
def _logits(model, batch: data.Batch):
    return model(batch.tokens, batch.segments, batch.length)


def predict(
    model: Any,
    encoded: data.Encoded,
    *,
    size: int,
    widths: Sequence[int],
    pad: int,
    compute_dtype: str,
) -> np.ndarray:
    """Logits [N, C] in the order of the examples."""
    mesh = devices.mesh(size)
    model = devices.replicate(precision.cast_kernels(model, compute_dtype), mesh)
    pending = [
        (batch.index, _logits(model, devices.shard_rows(batch, mesh)))
        for batch in data.batches(encoded, size=size, widths=widths, seed=None, pad=pad)
    ]
    index = np.concatenate([index for index, _ in pending])
    logits = np.concatenate([np.asarray(logits) for _, logits in pending])
    return logits[index >= 0][np.argsort(index[index >= 0])]
