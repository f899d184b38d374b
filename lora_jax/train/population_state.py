"""Where a population stands between two steps, saved and restored as one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import devices
from lora_jax.train.config import StepConfig
from lora_jax.train.state import History, Saver, record_epoch
from lora_jax.train.step import optimizer

IDLE = -1  # in the place of a step, of a cell that only fills the others up


@dataclass
class Course:
    """How the cells went so far."""

    losses: list[Any]  # [N] of every step, to be read later
    cells: list[History]  # of every cell; losses are those above
    diverged: list[
        int
    ]  # the step, from 1, whose loss was not finite; 0 for none, or IDLE

    @property
    def live(self) -> list[int]:
        """The cells that have not diverged, counted from 0."""
        return [cell for cell, step in enumerate(self.diverged) if not step]

    @property
    def tokens(self) -> int:
        """Tokens that all cells were trained on, but those that fill up."""
        total = 0
        for history, step in zip(self.cells, self.diverged, strict=True):
            if step != IDLE:
                total += history.tokens
        return total

    def read_loss(self, index: int) -> np.ndarray:
        """Return the losses [N] of a step, from 0, and mark the cells that diverged."""
        losses = devices.to_host(self.losses[index]).astype(np.float32)
        self.losses[index] = losses
        for cell in self.live:
            if not np.isfinite(losses[cell]):
                self.diverged[cell] = index + 1
        return losses


class PopulationState(NamedTuple):
    """All that the continuation of a population's training depends on."""

    trainable: Any  # leaves [N, ...], as all of them
    optimizer: Any
    best: Any  # the trainable tree of each cell's best epoch so far
    course: Course

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """What is saved as arrays."""
        return self.trainable, self.optimizer, self.best


def initial_state(
    trainable: Any,
    size: int,
    config: StepConfig,
    place: Callable[[Any], Any],
    idle: int = 0,
) -> PopulationState:
    """Return the state before the first step; `place` puts leaves on the devices.

    The last `idle` of the `size` cells only fill the others up.
    """
    # A step takes the memory of the tree it is passed, so each has a copy of its own.
    updated = place(jax.tree.map(jnp.copy, trainable))
    best = place(jax.tree.map(jnp.copy, trainable))
    # Adam's count too is one for each cell.
    moments = place(jax.vmap(optimizer(config).init)(trainable))
    histories = [History() for _ in range(size)]
    diverged = [0] * (size - idle) + [IDLE] * idle
    return PopulationState(updated, moments, best, Course([], histories, diverged))


def after_epoch(
    state: PopulationState, epoch: int, scores: Sequence[Mapping[str, float]] | None
) -> PopulationState:
    """Return the state after an epoch, with the trees kept of the cells it is best for.

    `scores` are those of the live cells, see `state.after_epoch`.
    """
    course = state.course
    is_best = np.zeros(len(course.cells), bool)
    for position, cell in enumerate(course.live):
        cell_scores = None if scores is None else scores[position]
        is_best[cell] = record_epoch(course.cells[cell], epoch, cell_scores)
    best = _chosen(is_best, state.trainable, state.best)
    return state._replace(best=best)


@jax.jit
def _chosen(is_new: Any, new: Any, old: Any) -> Any:
    """The leaves of each cell from one of two trees."""

    def choose(new_leaf, old_leaf):
        # [N] to [N, 1, ...]
        by_cell = is_new.reshape(-1, *[1] * (new_leaf.ndim - 1))
        return jnp.where(by_cell, new_leaf, old_leaf)

    return jax.tree.map(choose, new, old)


def save_if_due(saver: Saver, state: PopulationState) -> None:
    """Save the state if the last save is longer ago than it may be."""
    if saver.is_due():
        save(saver, state)


def save(saver: Saver, state: PopulationState) -> None:
    """Save the state, all cells in one."""
    course = state.course
    losses = [devices.to_host(values).tolist() for values in course.losses]
    facts = {
        "losses": losses,
        "cells": [vars(history) for history in course.cells],
        "diverged": course.diverged,
    }
    saver.write(len(losses), state.arrays, facts)


def restore(saver: Saver, start: PopulationState) -> PopulationState:
    """Return the state that was saved last, or `start` if none was.

    Raises:
        ValueError: the saved state is damaged, or of another population.
    """
    saved = saver.read(start.arrays)
    if saved is None:
        return start
    (trainable, moments, best), facts = saved
    return PopulationState(trainable, moments, best, _course(saver, start, facts))


def _course(saver: Saver, start: PopulationState, facts: dict[str, Any]) -> Course:
    """The course among the facts that were saved."""
    size = len(start.course.cells)
    # Any file may lie there.
    try:
        losses = [np.array(values, np.float32) for values in facts["losses"]]
        diverged = [int(step) for step in facts["diverged"]]
        histories = list(facts["cells"])
        lengths = {len(diverged), len(histories), *map(len, losses)}
        if lengths != {size}:
            raise TypeError(f"expected numbers of {size} cells")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{saver.folder}: expected the losses and scores of a population, got "
            f"others ({error}); delete it to start this training anew"
        ) from None
    cells = [saver.history(history) for history in histories]
    return Course(losses, cells, diverged)
