"""The training loop of a population: many cells, one frozen base, one compiled step.

A cell is one training. Cells may differ in whatever is data to the step: the numbers
that their adapters start from, ranks and scales of LoRA, learning rate, warm-up, weight
decay and seed. Each ends as `fit` alone would have trained it, up to rounding.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lora_jax import data, devices, hosts
from lora_jax.nn import precision
from lora_jax.train import together
from lora_jax.train.cell_places import Places
from lora_jax.train.cells import Cell, check_cells, orders_of, seeds_of, settings_of
from lora_jax.train.config import (
    StepConfig,
    TrainConfig,
    learning_rate,
    placement,
    step_config,
)
from lora_jax.train.fit import (
    Diverged,
    Fit,
    Objective,
    Progress,
    check_pack,
    divergence,
    epoch_batches,
)
from lora_jax.train.identity import training_identity
from lora_jax.train.population import Population, gather, trained_model
from lora_jax.train.population_state import (
    IDLE,
    Course,
    PopulationState,
    after_epoch,
    initial_state,
    restore,
    save,
    save_if_due,
)
from lora_jax.train.population_step import population_step
from lora_jax.train.state import Saver


def fit_many(
    cells: Sequence[Cell],
    objective: Objective,
    *,
    score: Callable[[Population, Sequence[int]], list[dict[str, float]]] | None = None,
    report: Callable[[Progress], None] | None = None,
    resume: Path | None = None,
) -> list[Fit | Diverged]:
    """Train the cells together, and return what `fit` returns or raises for each.

    Args:
        cells: the trainings.
        objective: the loss and the rows of all cells.
        score: returns the metrics on validation data of some cells of a population, by
            their indices; see `fit`.
        report: is called after each step.
        resume: a folder that a training of minutes is saved to, all cells in one.

    Raises:
        ValueError: a setting is outside its range, the cells cannot share a step, or
            `resume` holds a state of another training.
    """
    check_cells(cells, objective.widths)
    check_pack(objective, cells[0].config, cells[0].model.config)
    # In all that is read from it here, the cells are alike.
    config = cells[0].config
    epoch_steps = math.ceil(len(objective.encoded.lengths) / config.batch)
    steps = config.epochs * epoch_steps
    places = Places(placement(config))
    # Devices along `cells` have equally many: copies of the last cell fill them up.
    idle = -len(cells) % places.parts
    cells = [*cells, *[cells[-1]] * idle]
    # One base, and the leaves of the cells side by side.
    models = [cell.model for cell in cells]
    population = gather(models, [cell.mask for cell in cells])
    population = population._replace(shared=places.one.put(population.shared))
    config, population = together.resolved(
        config,
        population,
        rows=config.batch // config.accumulate // places.one.rows_divisor,
        length=max(objective.widths),
        parts=places.parts,
    )
    # Remat and the cells at a time are known, so the step is as it will be compiled.
    take_step = _step_function(population, objective, cells, config, steps, places)

    saver = Saver(resume, lambda: _identity(cells, population, objective))
    start = initial_state(
        population.trainable, len(cells), _compiled(config), places.put_cells, idle
    )
    state = restore(saver, start)
    course = state.course
    restored_steps = len(course.losses)
    for epoch in range(len(course.losses) // epoch_steps, config.epochs):
        batches = _epoch_batches(
            objective, config, seeds_of(cells), epoch, places.one.rows_divisor
        )
        # A restored state may stand in the middle of an epoch.
        for batch in itertools.islice(batches, len(course.losses) % epoch_steps, None):
            save_if_due(saver, state)
            state = take_step(state, *batch)
            # The loss of the step before, for that of this one would be waited for.
            loss = _mean_loss(course, len(course.losses) - 2)
            if report is not None:
                step = len(course.losses)
                live = len(course.live)
                report(Progress(epoch + 1, step, steps, loss, course.tokens, live))
            if not course.live:
                return _results(cells, population, state, steps, config.remat, places)
        # The epoch's last loss, before anything is made of what the cells learned.
        course.read_loss(len(course.losses) - 1)
        if not course.live:
            return _results(cells, population, state, steps, config.remat, places)
        scores = None
        if score is not None:
            current = _current(population, state.trainable, places)
            scores = score(current, course.live)
        state = after_epoch(state, epoch + 1, scores)
    # Of a training of minutes the end is saved too: testing its cells may take as long.
    is_saved = resume is not None and hosts.agreed(resume.exists)
    if is_saved and len(course.losses) > restored_steps:
        save(saver, state)
    return _results(cells, population, state, steps, config.remat, places)


def _compiled(config: TrainConfig) -> StepConfig:
    """What is compiled into the step; the weight decay is data."""
    return step_config(replace(config, weight_decay=0.0))


def _step_function(
    population: Population,
    objective: Objective,
    cells: Sequence[Cell],
    config: TrainConfig,
    steps: int,
    places: Places,
) -> Callable[[PopulationState, data.Batch, np.ndarray], PopulationState]:
    """Return the function that takes the next step of all cells."""
    compiled_config = _compiled(config)
    # Cast once, not in every step.
    mesh = places.one.mesh
    shared = precision.cast_kernels(population.shared, config.compute_dtype)
    private = precision.cast_kernels(population.private, config.compute_dtype)
    shared = places.one.put(shared)
    private = places.put_cells(private)
    orders = orders_of(cells)
    settings = places.put_cells(settings_of(cells))

    def take_step(
        state: PopulationState, batches: data.Batch, counts: np.ndarray
    ) -> PopulationState:
        course = state.course
        index = len(course.losses)
        # Steps have numbers, and so rates, even where a cell has diverged.
        rates = [learning_rate(cell.config, index, steps) for cell in cells]
        rate = places.put_cells(np.array(rates, np.float32))
        with devices.use(mesh):
            trainable, moments, values = population_step(
                state.trainable,
                state.optimizer,
                private,
                shared,
                places.put_batches(batches),
                settings._replace(rate=rate),
                devices.replicate(np.int32(index), mesh),
                loss=objective.loss,
                config=compiled_config,
                together=population.together,
            )
        course.losses.append(values)
        for history, count in zip(course.cells, counts[orders], strict=True):
            history.tokens += int(count)
        return state._replace(trainable=trainable, optimizer=moments)

    return take_step


def _epoch_batches(
    objective: Objective,
    config: TrainConfig,
    seeds: Sequence[int],
    epoch: int,
    divisor: int,
) -> Iterator[tuple[data.Batch, np.ndarray]]:
    """Yield the next batch of every order of the rows, leaves [S, B, ...].

    Beside it are the tokens of each, [S].
    """
    by_seed = [epoch_batches(objective, config, seed, epoch, divisor) for seed in seeds]
    for batches in zip(*by_seed, strict=True):
        # Rows that were padded for one cell alone are padded for all.
        width = max(batch.tokens.shape[1] for batch in batches)
        padded = [_padded(batch, width, objective.pad) for batch in batches]
        # Counted before they are padded.
        counts = np.array([batch.token_count for batch in batches])
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *padded), counts


def _padded(batch: data.Batch, width: int, pad: int) -> data.Batch:
    """The batch with rows of that many tokens."""
    padding = [(0, 0), (0, width - batch.tokens.shape[1])]
    tokens = np.pad(batch.tokens, padding, constant_values=pad)
    return batch._replace(tokens=tokens, segments=np.pad(batch.segments, padding))


def _mean_loss(course: Course, index: int) -> float:
    """Return the mean loss of the cells that have not diverged; NaN before a step."""
    if index < 0:
        return math.nan
    losses = course.read_loss(index)
    live = course.live
    return float(losses[live].mean()) if live else math.nan


def _current(population: Population, trainable: Any, places: Places) -> Population:
    """The population with other trainable leaves, on one device or spread as it is."""
    if not places.one.by_rule:
        trainable = devices.to_first_device(trainable)
    elif jax.process_count() > 1:
        # Each process reads what all cells learned.
        trainable = devices.replicate(trainable, places.one.mesh)
    return population._replace(trainable=trainable)


def _identity(
    cells: Sequence[Cell], population: Population, objective: Objective
) -> dict[str, str]:
    """Texts by name that two populations share only if their steps are the same."""
    identity = {}
    # Cell by cell, so that an error names the one that differs.
    for index, cell in enumerate(cells):
        texts = training_identity(
            jax.tree.map(lambda leaf: leaf[index], population.trainable),  # noqa: B023
            objective.encoded,
            cell.config,
            seed=cell.seed,
            widths=objective.widths,
        )
        for name, text in texts.items():
            identity[f"cell {index + 1}'s {name}"] = text
    return identity


def _results(
    cells: Sequence[Cell],
    population: Population,
    state: PopulationState,
    steps: int,
    remat: str,
    places: Places,
) -> list[Fit | Diverged]:
    """What became of the cells, in their order."""
    course = state.course
    losses = np.array(course.losses, np.float32)  # [steps, N]
    # Each cell's best epoch is another one, but all are in one tree.
    best = _current(population, state.best, places)
    results: list[Fit | Diverged] = []
    for index, cell in enumerate(cells):
        step = course.diverged[index]
        if step == IDLE:
            continue
        if step:
            value = float(losses[step - 1, index])
            results.append(divergence(value, step - 1, cell.config, steps))
            continue
        history = course.cells[index]
        results.append(
            Fit(
                model=trained_model(best, index, cell.model, cell.mask),
                best_epoch=history.best_epoch,
                validation=history.validation,
                losses=losses[:, index],
                tokens=history.tokens,
                remat=remat,
                mesh=str(places.one),
            )
        )
    return results
