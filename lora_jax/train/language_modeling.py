"""Language modeling: the loss of a decoder, and its perplexity on data.

A batch's `segments` are 1 at the tokens that the loss is about: those of the target, its
end included, or all of them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lora_jax import data, devices, quant
from lora_jax.models.decoder import Decoder
from lora_jax.models.padding import text_positions
from lora_jax.nn import precision
from lora_jax.train.config import StepConfig
from lora_jax.train.cross_entropy import cross_entropy
from lora_jax.train.population import Population, over_cells

METRICS = ("loss", "perplexity")  # of `evaluate`


def loss(
    model: Decoder,
    batch: Any,
    config: StepConfig,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the cross-entropy of the target tokens of a `data.Batch`, and their number.

    Label smoothing spreads its share of the target's probability over the vocabulary.
    The product with the head is computed in the configured dtype.
    """
    # [B, T, D]
    x = model.hidden(
        batch.tokens,
        batch.length,
        texts=batch.texts,
        rate=config.hidden_dropout,
        key=key,
        engine=config.engine,
    )
    position = jnp.arange(batch.tokens.shape[1])
    is_text = position < batch.length[:, None]
    is_target = is_text & (batch.segments == 1)
    if batch.texts is None:
        # Rows of weight 0 only fill the batch up.
        target_weight = is_target * batch.weight[:, None]
    else:
        # The token before the first one of a text is another text's.
        is_first = text_positions(batch.texts) == 0
        target_weight = 1.0 * (is_target & ~is_first)
    # Position t predicts the token at t + 1, and the last position nothing.
    next_token = [(0, 0), (0, 1)]
    weight = jnp.pad(target_weight, next_token)[:, 1:]
    labels = jnp.pad(batch.tokens, next_token)[:, 1:]
    # A head that is tied to the embedding has not been cast with the other kernels.
    dtype = precision.product_dtype(config.compute_dtype)
    kernel = model.head().astype(dtype)
    if quant.is_quantized(kernel):
        kernel = kernel.dequantize()
    smoothing = config.label_smoothing
    # `custom_vjp` hides the type.
    total: Any = cross_entropy(x, kernel, labels, weight, smoothing)
    return total, weight.sum()


def evaluate(
    model: Decoder,
    encoded: data.Encoded,
    *,
    size: int,
    widths: Sequence[int],
    pad: int,
    compute_dtype: str,
) -> dict[str, float]:
    """Return the mean loss of the target tokens and the perplexity, as two metrics.

    "loss" is in nats a token, and "perplexity" its exponential. There is neither
    smoothing nor dropout.

    Args:
        model: a language model, adapted or not.
        encoded: the rows.
        size: rows in a batch.
        widths: widths that batches are padded to, in tokens.
        pad: the token that they are padded with.
        compute_dtype: a name of `precision.COMPUTE_DTYPES`.
    """
    model = precision.cast_kernels(model, compute_dtype)
    model, mesh = devices.placed(model, size)
    # All batches are dispatched before the first result is waited for.
    sums: Any = []
    batches = data.batches(encoded, size=size, widths=widths, seed=None, pad=pad)
    with devices.use(mesh):
        for batch in batches:
            rows = devices.shard_rows(batch, mesh)
            sums.append(_plain_loss(model, rows, compute_dtype))
    return _metrics(_numbers(sums))


def evaluate_many(
    population: Population,
    encoded: data.Encoded,
    *,
    size: int,
    widths: Sequence[int],
    pad: int,
    compute_dtype: str,
) -> list[dict[str, float]]:
    """Return what `evaluate` returns, of all models of a population."""
    leaves = population.trainable, population.private, population.shared
    leaves = precision.cast_kernels(leaves, compute_dtype)
    leaves, mesh = devices.placed(leaves, size)
    options: Any = {"compute_dtype": compute_dtype, "together": population.together}
    # As of one model: dispatched before the first result is waited for.
    sums: Any = []
    batches = data.batches(encoded, size=size, widths=widths, seed=None, pad=pad)
    with devices.use(mesh):
        for batch in batches:
            rows = devices.shard_rows(batch, mesh)
            sums.append(_loss_of_cells(*leaves, rows, **options))
    # [batches, 2, cells] to one [batches, 2] a cell
    by_cell = np.moveaxis(_numbers(sums), -1, 0)
    return [_metrics(cell_sums) for cell_sums in by_cell]


def _numbers(sums: Any) -> np.ndarray:
    """The sums of all batches, in float64."""
    host = jax.tree.map(devices.to_host, sums)
    return np.asarray(host, float)


def _metrics(sums: np.ndarray) -> dict[str, float]:
    """The metrics of the sums of losses and of weights [batches, 2], in float64."""
    total, count = np.sum(sums, axis=0)
    mean = total / count
    values = float(mean), float(np.exp(mean))
    return dict(zip(METRICS, values, strict=True))


@partial(jax.jit, static_argnames="compute_dtype")
def _plain_loss(
    model: Decoder,
    batch: data.Batch,
    compute_dtype: str,
) -> tuple[Array, Array]:
    return loss(model, batch, StepConfig(compute_dtype=compute_dtype))


@partial(jax.jit, static_argnames=("compute_dtype", "together"))
def _loss_of_cells(
    trainable: Any,
    private: Any,
    shared: Any,
    batch: data.Batch,
    *,
    compute_dtype: str,
    together: int,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    population = Population(trainable, private, shared, together)
    config = StepConfig(compute_dtype=compute_dtype)

    # A configuration is no array, which alone are passed on.
    def loss_of(model: Decoder, batch: data.Batch) -> tuple[Array, Array]:
        return loss(model, batch, config)

    return over_cells(loss_of, population, batch)
