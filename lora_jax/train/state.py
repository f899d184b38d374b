"""Where a training stands between two steps, and how that is saved and restored.

A training that takes minutes is saved now and then. One that was killed continues from
its last save and ends with the same bits as one that never stopped.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import devices, hosts, metrics
from lora_jax.checkpoints import training_state
from lora_jax.train.config import StepConfig
from lora_jax.train.identity import differences
from lora_jax.train.step import optimizer

SECONDS_BETWEEN_SAVES = 120.0
# Processes that train together ask the first one's clock only so often.
STEPS_BETWEEN_QUESTIONS = 8
IDENTITY = "training"  # among the facts that are saved


@dataclass
class History:
    """How a training went so far."""

    losses: list[Any] = field(default_factory=list)  # of every step, to be read later
    tokens: int = 0  # trained on, without padding
    validation: list[dict[str, float]] = field(default_factory=list)  # of every epoch
    best_epoch: int = 0  # counted from 1
    best_score: float | None = None  # higher is better


class TrainState(NamedTuple):
    """All that the continuation of a training depends on."""

    trainable: Any
    optimizer: Any
    best: Any  # the trainable tree of the best epoch so far
    history: History

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """What is saved as arrays, and has the same shapes during the whole training."""
        return self.trainable, self.optimizer, self.best


def initial_state(
    trainable: Any, config: StepConfig, put: Callable[..., Any]
) -> TrainState:
    """Return the state before the first step; `trainable` itself is left alone.

    `put` is that of a `Placement`.
    """
    # A step takes the memory of the tree it is passed, so each has a copy of its own.
    updated = jax.tree.map(jnp.copy, trainable)
    best = jax.tree.map(jnp.copy, trainable)
    moments = optimizer(config).init(updated)
    moments = put(moments, host=config.offload)
    return TrainState(updated, moments, best, History())


def after_epoch(
    state: TrainState, epoch: int, scores: Mapping[str, float] | None
) -> TrainState:
    """Return the state after an epoch, with its trainable tree kept if it is the best.

    The first of the scores decides; of equal epochs it is the earlier. Without scores
    the latest epoch is the best.
    """
    if not record_epoch(state.history, epoch, scores):
        return state
    return state._replace(best=jax.tree.map(jnp.copy, state.trainable))


def record_epoch(
    history: History, epoch: int, scores: Mapping[str, float] | None
) -> bool:
    """Add an epoch to a history, and return whether it is the best so far."""
    if scores is None:
        score = float(epoch)
    else:
        history.validation.append(dict(scores))
        name, score = next(iter(scores.items()))
        if not metrics.higher_is_better(name):
            score = -score
    if history.best_score is not None and score <= history.best_score:
        return False

    history.best_epoch = epoch
    history.best_score = score
    return True


class Saver:
    """Saves a training to a folder from time to time; without a folder, never.

    `identify` says which training it is, see `training_identity`. It reads all rows and
    leaves, so it is asked only once something is saved or restored.
    """

    def __init__(self, folder: Path | None, identify: Callable[[], Mapping[str, str]]):
        self.folder = folder
        self.identify = identify
        self.last_save = time.monotonic()
        self.steps = 0  # since the training began or continued

    def save_if_due(self, state: TrainState) -> None:
        """Save the state if the last save is longer ago than it may be."""
        if not self.is_due():
            return
        losses = [float(loss) for loss in state.history.losses]
        facts = vars(state.history) | {"losses": losses}
        self.write(len(losses), state.arrays, facts)

    def is_due(self) -> bool:
        """Return whether the last save is longer ago than it may be.

        It is asked before every step, by all processes.
        """
        self.steps += 1
        is_alone = jax.process_count() == 1
        if not is_alone and self.steps % STEPS_BETWEEN_QUESTIONS:
            return False
        return hosts.agreed(self._is_late)

    def _is_late(self) -> bool:
        elapsed = time.monotonic() - self.last_save
        return self.folder is not None and elapsed > SECONDS_BETWEEN_SAVES

    def write(self, step: int, arrays: Any, facts: Mapping[str, Any]) -> None:
        """Save arrays, and facts that JSON can hold, as the state before a step."""
        assert self.folder is not None  # else nothing is due
        leaves = jax.tree.leaves(arrays)
        if jax.process_count() > 1:
            # All processes gather what is spread, and the first one writes it.
            leaves = [devices.to_host(leaf) for leaf in leaves]
        if hosts.is_first():
            identified = {**facts, IDENTITY: dict(self.identify())}
            training_state.save(self.folder, step, leaves, identified)
        self.last_save = time.monotonic()

    def restore(self, start: TrainState) -> TrainState:
        """Return the state that the folder holds, or `start` if it holds none.

        Raises:
            ValueError: the saved state is damaged, or of another training.
        """
        saved = self.read(start.arrays)
        if saved is None:
            return start
        (trainable, moments, best), facts = saved
        return TrainState(trainable, moments, best, self.history(facts))

    def read(self, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """Return the arrays and the facts that were saved last, or None.

        `template` is a tree with the structure, shapes and dtypes of the arrays.

        Raises:
            ValueError: the saved state is damaged, or of another training.
        """
        if self.folder is None:
            return None
        leaves, structure = jax.tree.flatten(template)
        saved = self._restored(self.folder, leaves)
        if saved is None:
            return None
        saved_leaves, facts = saved
        identity = facts.pop(IDENTITY, None) if isinstance(facts, dict) else None
        if not isinstance(identity, dict):
            raise ValueError(
                f"{self.folder}: does not say which training it is of, as saves of "
                "earlier versions; delete it to start this training anew"
            )
        differing = differences(identity, self.identify())
        if differing:
            raise ValueError(
                f"{self.folder}: holds another training, with {'; '.join(differing)}; "
                "delete it to start this training anew"
            )
        return jax.tree.unflatten(structure, saved_leaves), facts

    def _restored(self, folder: Path, leaves: list[Any]) -> Any:
        """What `training_state.restore` returns, with arrays in the leaves' places."""
        if jax.process_count() == 1:
            return training_state.restore(folder, leaves)
        # The first process reads it, and tells the others.
        shapes = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
        saved = hosts.agreed(lambda: training_state.restore(folder, shapes))
        if saved is None:
            return None
        arrays, facts = saved
        return devices.put(arrays, [leaf.sharding for leaf in leaves]), facts

    def history(self, facts: dict[str, Any]) -> History:
        """Return the history among the facts that were saved."""
        try:
            history = History(**facts)
            # A number in another form fails here, not in the middle of the training.
            history.losses = [float(loss) for loss in history.losses]
            score = history.best_score
            history.best_score = None if score is None else float(score)
            is_whole = type(history.tokens) is type(history.best_epoch) is int
            if not is_whole or not isinstance(history.validation, list):
                raise TypeError("expected numbers of tokens and epochs, and a list")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.folder}: expected the losses and scores of a training, got "
                f"others ({error}); delete it to start this training anew"
            ) from None
        return history
