"""How many cells of a population a step computes at a time.

A step may compute all cells at once, or some cells after the other, in a loop inside of
the one compiled program. At once is best for an accelerator, as far as its memory goes.
A processor is fastest where the numbers of the cells stay in its cache: 12 cells of
MiniLM at once took 1.2 to 2.7 times as long as trained alone, and in a loop, one at
a time, 0.8 times (LOG.md).
"""

import math
from typing import Any

import jax

from lora_jax import devices, tree
from lora_jax.train import remat
from lora_jax.train.config import TrainConfig
from lora_jax.train.population import Population
from lora_jax.train.step import widened

CACHE_BYTES = 16 * 2**20  # of a processor, roughly


def resolved(
    config: TrainConfig,
    population: Population,
    *,
    rows: int,
    length: int,
    parts: int = 1,
) -> tuple[TrainConfig, Population]:
    """Return both with what is computed anew, and how many cells at a time.

    Args:
        config: of all cells.
        population: the cells.
        rows: of a micro-batch on one device.
        length: of the longest rows, in tokens.
        parts: among how many devices the cells are divided.
    """
    cell = jax.tree.map(_without_axis, population.trainable)
    frozen = tree.merge(
        jax.tree.map(_without_axis, population.private), population.shared
    )
    # By the estimate that chooses what is computed anew.
    memory = devices.memory_bytes()
    config = remat.resolved(
        config, cell, frozen, rows=rows, length=length, memory=memory
    )
    moment = remat.fullest_moment(config, cell, frozen, rows=rows, length=length)
    # What a cell learns, its gradient and its best epoch; then the optimizer's moments.
    learned = 3 * tree.nbytes(population.trainable)
    learned += 2 * tree.nbytes(jax.eval_shape(widened, population.trainable))
    stored = learned // parts + devices.nbytes(frozen) + moment.copies
    together = cells_together(
        population.size // parts, moment.activations, stored, memory
    )
    return config, population._replace(together=together)


def cells_together(
    size: int, cell_bytes: int, stored: int = 0, memory: int | None = None
) -> int:
    """Return how many of `size` cells are to be computed at a time; it divides `size`.

    Args:
        size: of the population.
        cell_bytes: that a cell keeps for its backward pass.
        stored: bytes of what all cells store, and of the base.
        memory: of a device, in bytes, if it is known.
    """
    if jax.default_backend() == "cpu":
        limit = float(CACHE_BYTES)
    elif memory is None:
        limit = math.inf
    else:
        limit = remat.USABLE * memory - stored
    # A loop with a rest would be compiled twice.
    for count in range(size, 1, -1):
        if size % count == 0 and count * cell_bytes <= limit:
            return count
    return 1


def _without_axis(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of one cell's leaf."""
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
