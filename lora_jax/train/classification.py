"""Labels of texts: the loss of a classifier or regressor, and its predictions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, Shaped

from lora_jax import data, devices
from lora_jax.nn import precision
from lora_jax.train.config import StepConfig


def loss(
    model: Any,
    batch: data.Batch,
    config: StepConfig,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the losses of a batch's rows, summed, and the number of rows."""
    logits = model(
        batch.tokens,
        batch.segments,
        batch.length,
        rate=config.hidden_dropout,
        key=key,
    )
    by_row = losses(logits, batch.label, config.label_smoothing)
    # Rows of weight 0 only fill the batch up.
    return jnp.sum(by_row * batch.weight), jnp.sum(batch.weight)


def losses(
    logits: Float[Array, "B C"], label: Shaped[Array, " B"], smoothing: float
) -> Float[Array, " B"]:
    """Return the loss of each row.

    It is the squared error where the model has one output (regression), and the
    cross-entropy with smoothed labels where it has more.
    """
    classes = logits.shape[-1]
    if classes == 1:
        return (logits[:, 0] - label) ** 2
    target = optax.smooth_labels(jax.nn.one_hot(label, classes), smoothing)
    return optax.softmax_cross_entropy(logits, target)


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
