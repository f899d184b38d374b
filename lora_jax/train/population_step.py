"""One step of a population: each cell's gradient and update, in one compiled program."""

from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key

from lora_jax import data, tree
from lora_jax.train.config import StepConfig
from lora_jax.train.population import map_cells
from lora_jax.train.step import Loss, updated


class CellSettings(NamedTuple):
    """What a cell's step depends on beside its leaves, along the axis N of cells."""

    rate: Float[Array, " N"]  # the learning rate of this step
    weight_decay: Float[Array, " N"]
    key: Key[Array, " N"]  # of the whole training
    order: Int[Array, " N"]  # which of the S batches is the cell's


@partial(
    jax.jit,
    static_argnames=("loss", "config", "together"),
    donate_argnames=("trainable", "state"),
)
def population_step(
    trainable: Any,
    state: Any,
    private: Any,
    shared: Any,
    batches: data.Batch,
    settings: CellSettings,
    index: Int[Array, ""],
    *,
    loss: Loss,
    config: StepConfig,
    together: int = 0,
) -> tuple[Any, Any, Float[Array, " N"]]:
    """Update the trainable tree of each cell once, as `train_step` would.

    Args:
        trainable, private, shared: as in a `Population`.
        state: the optimizer's state of each cell, leaves [N, ...].
        batches: a batch for each order of the rows, leaves [S, B, ...]. With one order
            all cells read the same batch, and what no cell changes of it is computed
            once.
        settings: of the cells.
        index: the step's number, counted from 0.
        loss, config: as for `train_step`.
        together: how many cells are computed at a time; 0 stands for all of them.

    Returns:
        The trainable tree, the optimizer's state, and the mean losses. The first two
        take the memory of those passed in.
    """
    orders = batches.length.shape[0]
    keys = jax.vmap(jax.random.fold_in, (0, None))(settings.key, index)

    def cell_step(trainable, state, private, cell, shared, batches):
        # One order is no axis of the cells: 0 is a constant.
        order = cell.order if orders > 1 else 0
        batch = jax.tree.map(lambda rows: rows[order], batches)
        return updated(
            trainable,
            state,
            tree.merge(private, shared),
            batch,
            cell.rate,
            cell.key,
            loss=loss,
            config=config,
            weight_decay=cell.weight_decay,
        )

    cells = trainable, state, private, settings._replace(key=keys)
    return map_cells(cell_step, cells, (shared, batches), together)
