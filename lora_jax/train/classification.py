"""Classification and regression: the loss, and batched prediction."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, Shaped

from lora_jax import data, devices
from lora_jax.nn import precision
from lora_jax.train.config import StepConfig
from lora_jax.train.population import Population, over_cells


def loss(
    model: Any,
    batch: Any,
    config: StepConfig,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the losses of the rows of a `data.Batch`, summed, and their number."""
    # [B, C], of packed rows [B, N, C]
    logits = model(
        batch.tokens,
        batch.segments,
        batch.length,
        texts=batch.texts,
        starts=batch.starts,
        rate=config.hidden_dropout,
        key=key,
        engine=config.engine,
    )
    by_text = losses(logits, batch.label, config.label_smoothing)
    # Texts of weight 0 only fill the batch up.
    return jnp.sum(by_text * batch.weight), jnp.sum(batch.weight)


def losses(
    logits: Float[Array, "*B C"],
    label: Shaped[Array, "*B"],
    smoothing: float,
) -> Float[Array, "*B"]:
    """Return the loss of each text.

    It is the squared error where the model has one output (regression), and the
    cross-entropy with smoothed labels where it has more.
    """
    classes = logits.shape[-1]
    if classes == 1:
        return (logits[..., 0] - label) ** 2
    # [.., C]
    target = jax.nn.one_hot(label, classes)
    target = optax.smooth_labels(target, smoothing)
    return optax.softmax_cross_entropy(logits, target)


def predict(
    model: Any,
    encoded: data.Encoded,
    *,
    size: int,
    widths: Sequence[int],
    pad: int,
    compute_dtype: str,
) -> np.ndarray:
    """Return a model's logits [N, C], in the order of the examples.

    Args:
        model: a classifier or regressor, adapted or not.
        encoded: the examples.
        size: rows in a batch.
        widths: widths that batches are padded to, in tokens.
        pad: the token that they are padded with.
        compute_dtype: a name of `precision.COMPUTE_DTYPES`.
    """
    model = precision.cast_kernels(model, compute_dtype)
    model, mesh = devices.placed(model, size)
    options: Any = {"size": size, "widths": widths, "pad": pad}
    return _in_order(
        lambda batch: _logits(model, batch, compute_dtype), encoded, mesh, options
    )


def predict_many(
    population: Population,
    encoded: data.Encoded,
    *,
    size: int,
    widths: Sequence[int],
    pad: int,
    compute_dtype: str,
) -> np.ndarray:
    """Return the logits [cells, N, C] of all models; arguments are as for `predict`."""
    leaves = population.trainable, population.private, population.shared
    # Adapters stay beside their base: merged, every cell would have a base.
    leaves = precision.cast_kernels(leaves, compute_dtype)
    leaves, mesh = devices.placed(leaves, size)
    settings: Any = {
        "compute_dtype": compute_dtype,
        "together": population.together,
    }
    options: Any = {"size": size, "widths": widths, "pad": pad}

    # [B, cells, C], rows first as of one model.
    def predict_batch(batch):
        return _logits_of_cells(*leaves, batch, **settings).swapaxes(0, 1)

    return _in_order(predict_batch, encoded, mesh, options).swapaxes(0, 1)


def _in_order(
    predict_batch: Any, encoded: data.Encoded, mesh: Any, options: Any
) -> np.ndarray:
    """What is predicted of batches [B, ...], in the order of the examples."""
    # All batches are dispatched before the first result is waited for.
    indices = []
    outputs = []
    with devices.use(mesh):
        for batch in data.batches(encoded, seed=None, **options):
            indices.append(batch.index)
            outputs.append(predict_batch(devices.shard_rows(batch, mesh)))

    index = np.concatenate(indices)
    logits = np.concatenate([devices.to_host(output) for output in outputs])
    # Batches are sorted by length. Rows of index -1 only fill the last one up.
    is_example = index >= 0
    order = np.argsort(index[is_example])
    return logits[is_example][order]


@partial(jax.jit, static_argnames="compute_dtype")
def _logits(
    model: Any,
    batch: data.Batch,
    compute_dtype: str,
) -> Float[Array, "B C"]:
    engine = StepConfig(compute_dtype=compute_dtype).engine
    return model(batch.tokens, batch.segments, batch.length, engine=engine)


@partial(jax.jit, static_argnames=("compute_dtype", "together"))
def _logits_of_cells(
    trainable: Any,
    private: Any,
    shared: Any,
    batch: data.Batch,
    *,
    compute_dtype: str,
    together: int,
) -> Float[Array, "N B C"]:
    population = Population(trainable, private, shared, together)

    def logits_of(model: Any, batch: data.Batch) -> Float[Array, "B C"]:
        return _logits(model, batch, compute_dtype)

    return over_cells(logits_of, population, batch)
