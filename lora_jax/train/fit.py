"""The training loop, of an adapted classifier, regressor or language model.

What a model is trained for is an `Objective`: a loss and the rows it is the mean of. The
whole training is a function of model, objective, configuration and seed.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax import data, devices, tree
from lora_jax.nn import precision
from lora_jax.train import remat
from lora_jax.train.config import (
    TrainConfig,
    check,
    learning_rate,
    placement,
    step_config,
)
from lora_jax.train.identity import training_identity
from lora_jax.train.sharding import Placement
from lora_jax.train.state import Saver, TrainState, after_epoch, initial_state
from lora_jax.train.step import Loss, train_step


class Objective(NamedTuple):
    """What is minimized: the mean of a loss over encoded rows."""

    loss: Loss  # such as `classification.loss` or `language_modeling.loss`
    encoded: data.Encoded
    widths: Sequence[int]  # that batches are padded to, in tokens
    pad: int  # the token they are padded with


class Progress(NamedTuple):
    """What is reported after each step."""

    epoch: int  # counted from 1
    step: int  # counted from 1
    steps: int  # of the whole training
    loss: float  # of the step before; NaN at the first
    tokens: int  # trained on so far, by all cells
    cells: int = 1  # trainings that take the step together and have not diverged


class Fit(NamedTuple):
    """A finished training: the model of the best epoch, and how it went."""

    model: Any
    best_epoch: int  # counted from 1
    validation: list[dict[str, float]]  # of every epoch; empty without a score
    losses: np.ndarray  # [steps]
    tokens: int  # trained on, without padding
    remat: str = "none"  # what the backward pass computed anew
    mesh: str = ""  # how many devices it was spread over, as `data=4,model=2`


class Diverged(FloatingPointError):
    """The loss is not finite."""


def fit(
    model: Any,
    mask: Any,
    objective: Objective,
    config: TrainConfig,
    *,
    seed: int,
    score: Callable[[Any], dict[str, float]] | None = None,
    report: Callable[[Progress], None] | None = None,
    resume: Path | None = None,
) -> Fit:
    """Train the leaves that `mask` marks, and return the model of the best epoch.

    Args:
        model: an adapted model. It is not changed.
        mask: booleans like the model, as `methods.mask` returns.
        objective: the loss, and the rows to train on.
        config: how to train.
        seed: draws the order of the rows, and the dropout.
        score: returns a model's metrics on validation data. The first one decides which
            epoch is the best; without `score` it is the last.
        report: is called after each step.
        resume: a folder that a training of minutes is saved to. If it holds a state of
            this training, the training continues from there.

    Raises:
        ValueError: a setting is outside its range, or `resume` holds a state of another
            training.
        Diverged: the loss is not finite.
    """
    check(config)
    epoch_steps = math.ceil(len(objective.encoded.lengths) / config.batch)
    steps = config.epochs * epoch_steps
    # Every device has whole micro-batches.
    places = placement(config)
    check_pack(objective, config, model.config)
    trainable, frozen = tree.split(model, mask)
    # Where it is tested it is as here, so that no device ever has all of it.
    if places.by_rule:
        frozen = places.put(frozen)
    config = remat.resolved(
        config,
        trainable,
        frozen,
        rows=config.batch // config.accumulate // places.rows_divisor,
        length=max(objective.widths),
        memory=devices.memory_bytes(),
    )
    take_step = _step_function(frozen, objective.loss, config, steps, places, seed)

    saver = Saver(
        resume,
        lambda: training_identity(
            trainable,
            objective.encoded,
            config,
            seed=seed,
            widths=objective.widths,
        ),
    )
    state = initial_state(places.put(trainable), step_config(config), places.put)
    state = saver.restore(state)
    losses = state.history.losses
    for epoch in range(len(losses) // epoch_steps, config.epochs):
        batches = epoch_batches(objective, config, seed, epoch, places.rows_divisor)
        # A restored state may stand in the middle of an epoch.
        for batch in itertools.islice(batches, len(losses) % epoch_steps, None):
            saver.save_if_due(state)
            state = take_step(state, batch)
            # Reading this step's loss would wait for it before the next batch is made,
            # so the one before is read.
            last_loss = _finite_loss(losses, len(losses) - 2, config, steps)
            if report is not None:
                tokens = state.history.tokens
                report(Progress(epoch + 1, len(losses), steps, last_loss, tokens))
        _finite_loss(losses, len(losses) - 1, config, steps)
        scores = None
        if score is not None:
            scores = score(joined(state.trainable, frozen, places))
        state = after_epoch(state, epoch + 1, scores)
    return _finished(state, frozen, config.remat, places)


def check_pack(objective: Objective, config: TrainConfig, sizes: Any) -> None:
    """Raise a ValueError unless the longest row fits a packed one, and the model.

    `sizes` is the model's configuration. A packed row may be longer than the model has
    positions, for those of each of its texts begin anew.
    """
    if not config.pack:
        return
    longest = int(objective.encoded.lengths.max())
    positions = sizes.max_positions - sizes.offset
    if longest > positions:
        raise ValueError(
            f"pack: expected texts of at most {positions} tokens, the model's "
            f"positions, got one of {longest}"
        )
    if longest > config.pack:
        raise ValueError(
            f"pack: expected 0, or at least the {longest} tokens of the longest row, "
            f"got {config.pack}"
        )


def _step_function(
    frozen: Any,
    loss: Loss,
    config: TrainConfig,
    steps: int,
    places: Placement,
    seed: int,
) -> Callable[[TrainState, data.Batch], TrainState]:
    """Return the function that takes a training's next step, from a state and a batch."""
    compiled_config = step_config(config)
    training_key = jax.random.key(seed)
    mesh = places.mesh
    # Cast once, not in every step.
    cast = precision.cast_kernels(frozen, config.compute_dtype)
    cast = places.put(cast)

    def take_step(state: TrainState, batch: data.Batch) -> TrainState:
        history = state.history
        index = len(history.losses)
        rate = np.float32(learning_rate(config, index, steps))
        key = jax.random.fold_in(training_key, index)
        with devices.use(mesh):
            trainable, moments, value = train_step(
                state.trainable,
                state.optimizer,
                cast,
                devices.shard_rows(batch, mesh),
                *devices.replicate((rate, key), mesh),
                loss=loss,
                config=compiled_config,
            )
        history.losses.append(value)
        history.tokens += batch.token_count
        return state._replace(trainable=trainable, optimizer=moments)

    return take_step


def epoch_batches(
    objective: Objective, config: TrainConfig, seed: int, epoch: int, divisor: int
) -> Iterator[data.Batch]:
    """Return the batches of an epoch, packed where the configuration says so.

    Packed rows can be divided among `divisor` devices.
    """
    padded = data.batches(
        objective.encoded,
        size=config.batch,
        widths=objective.widths,
        seed=seed,
        epoch=epoch,
        pad=objective.pad,
    )
    if not config.pack:
        return padded
    return (
        data.pack(
            batch,
            width=config.pack,
            # Every device has whole micro-batches.
            multiple=config.accumulate * divisor,
            pad=objective.pad,
        )
        for batch in padded
    )


def _finite_loss(
    losses: Sequence[Any], index: int, config: TrainConfig, steps: int
) -> float:
    """Return the loss of a step, NaN before the first one; raise `Diverged` for NaN."""
    if index < 0:
        return math.nan
    value = float(losses[index])
    if not math.isfinite(value):
        raise divergence(value, index, config, steps)
    return value


def divergence(value: float, index: int, config: TrainConfig, steps: int) -> Diverged:
    """Return the error of a training whose loss at a step, from 0, is not finite."""
    rate = learning_rate(config, index, steps)
    return Diverged(
        f"the loss is {value} at step {index + 1} of {steps}, learning rate "
        f"{rate:.3g}: expected a finite one. Try a lower learning rate, a longer "
        "warm-up, or float32 compute."
    )


def joined(trainable: Any, frozen: Any, places: Placement) -> Any:
    """Return the model of a training's leaves.

    It is on one device, or spread as the training was. What is trainable is on all
    devices where some are another process's, so that each process can read it.
    """
    if not places.by_rule:
        return tree.merge(devices.to_first_device(trainable), frozen)
    if jax.process_count() > 1:
        trainable = devices.replicate(trainable, places.mesh)
    return tree.merge(trainable, frozen)


def _finished(state: TrainState, frozen: Any, remat: str, places: Placement) -> Fit:
    history = state.history
    return Fit(
        model=joined(state.best, frozen, places),
        best_epoch=history.best_epoch,
        validation=history.validation,
        losses=np.array(history.losses, np.float32),
        tokens=history.tokens,
        remat=remat,
        mesh=str(places),
    )
