"""How many cells of a population a step computes at a time.

A step may compute all cells at once, or some cells after the other, in a loop inside of
the one compiled program. At once is best for an accelerator, as far as its memory goes.
A processor is fastest where the numbers of the cells stay in its cache: 12 cells of
MiniLM at once took 2.7 times as long as one after the other alone, and in a loop, one at
a time, 0.8 times (LOG.md).
"""

from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import data, tree
from lora_jax.train.config import StepConfig
from lora_jax.train.population import Population
from lora_jax.train.step import Loss, summed_loss

CACHE_BYTES = 16 * 2**20  # of a processor, roughly
MEMORY_SHARE = 0.6  # of an accelerator; the rest is for the base and temporaries


def cells_together(size: int, cell_bytes: int) -> int:
    """Return how many of `size` cells are to be computed at a time; it divides `size`.

    `cell_bytes` is what a cell keeps for its backward pass, see `activation_bytes`.
    """
    if jax.default_backend() == "cpu":
        limit = float(CACHE_BYTES)
    else:
        statistics = jax.local_devices()[0].memory_stats() or {}
        limit = MEMORY_SHARE * statistics.get("bytes_limit", float("inf"))
    # A loop with a rest would be compiled twice.
    for count in range(size, 1, -1):
        if size % count == 0 and count * cell_bytes <= limit:
            return count
    return 1


def activation_bytes(
    population: Population, batch: data.Batch, *, loss: Loss, config: StepConfig
) -> int:
    """Return the bytes that the backward pass of one more cell keeps, from shapes.

    `batch` has leaves [B, ...], those of the batch of every cell. Nothing is computed.
    """
    one, two = (_kept_bytes(population, batch, count, loss, config) for count in (1, 2))
    return two - one


def _kept_bytes(
    population: Population, batch: Any, count: int, loss: Loss, config: StepConfig
) -> int:
    """What the backward pass of `count` cells keeps, weights included."""

    def with_cells(leaf):
        return jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype)

    cells = population.trainable, population.private
    trainable, private = jax.tree.map(with_cells, cells)

    def backward(trainable, private, shared, batch):
        def total(trainable):
            def of_cell(trainable, private):
                frozen = tree.merge(private, shared)
                return summed_loss(trainable, frozen, batch, None, loss, config)[0]

            return jnp.sum(jax.vmap(of_cell)(trainable, private))

        return jax.vjp(total, trainable)[1]

    kept = jax.eval_shape(backward, trainable, private, population.shared, batch)
    return tree.nbytes(kept)
