"""The cells of a population: what they may differ in, as data to a step."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import methods
from lora_jax.train.config import TrainConfig, check
from lora_jax.train.population_step import CellSettings

# The settings in which the cells of a population may differ.
FREE = ("learning_rate", "weight_decay", "warmup")


class Cell(NamedTuple):
    """One training of a population; the fields are arguments of `fit`."""

    model: Any
    mask: Any
    config: TrainConfig
    seed: int


def check_cells(cells: Sequence[Cell], widths: Sequence[int]) -> None:
    """Check the settings of cells that are to be trained together.

    Raises:
        ValueError: there are none, a setting is outside its range, or settings differ
            that a step is compiled with; lists them.
    """
    if not cells:
        raise ValueError("a population: expected at least one cell, got none")
    problems = []
    for number, cell in enumerate(cells, start=1):
        check(cell.config)
        differing = _compiled_differences(cells[0].config, cell.config)
        if differing:
            problems.append(f"cell {number} has {', '.join(differing)}")
    if cells[0].config.offload:
        problems.append("moments cannot be offloaded")
    if len(seeds_of(cells)) > 1 and cells[0].config.pack:
        problems.append("cells of several seeds are packed into other rows")
    # A mask of dropout depends on the width of its batch.
    if len(seeds_of(cells)) > 1 and len(widths) > 1 and _drops(cells):
        problems.append(
            "with dropout, cells of several seeds need batches of one width"
        )
    if problems:
        raise ValueError(
            "a population: expected settings that differ in "
            f"{', '.join(FREE)} and seed alone; {'; '.join(problems)}"
        )


def _compiled_differences(first: TrainConfig, other: TrainConfig) -> list[str]:
    values = asdict(other)
    texts = []
    # All that differ are listed, not the first alone.
    for name, value in asdict(first).items():
        if name not in FREE and values[name] != value:
            texts.append(f"{name} {values[name]}, not {value}")
    return texts


def _drops(cells: Sequence[Cell]) -> bool:
    """Whether anything is dropped in training."""
    if cells[0].config.hidden_dropout:
        return True
    # Adapters have rates of their own, the same in all cells.
    layers = methods.adapters(cells[0].model)
    return any(getattr(layer, "rate", 0) for layer in layers.values())


def seeds_of(cells: Sequence[Cell]) -> list[int]:
    """The seeds of the cells, each once: as many orders the rows have."""
    # In the order of the cells, so that a run repeats itself.
    return list(dict.fromkeys(cell.seed for cell in cells))


def settings_of(cells: Sequence[Cell]) -> CellSettings:
    # The keys that `fit` begins with.
    keys = [jax.random.key(cell.seed) for cell in cells]
    return CellSettings(
        rate=jnp.zeros(len(cells)),  # set before each step
        weight_decay=jnp.array([cell.config.weight_decay for cell in cells]),
        key=jnp.stack(keys),
        order=jnp.array(orders_of(cells)),
    )


def orders_of(cells: Sequence[Cell]) -> np.ndarray:
    """Which of the orders of the rows is each cell's, [N]."""
    seeds = seeds_of(cells)
    return np.array([seeds.index(cell.seed) for cell in cells], np.int32)
