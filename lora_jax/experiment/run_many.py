"""Runs that are trained together, each with a row of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_jax import train
from lora_jax.experiment import provenance
from lora_jax.experiment.run import (
    Stopwatch,
    Trained,
    complete_row,
    test_texts,
    times_of,
)
from lora_jax.experiment.scoring import score_many, validate_many
from lora_jax.experiment.workbench import Workbench
from lora_jax.train.population import Population, gather


def train_population(
    benches: Sequence[Workbench],
    *,
    report: Callable[[train.Progress], None] | None = None,
    written: Callable[[int, int], None] | None = None,
    resume: Path | None = None,
    finished: Callable[[int, Trained | train.Diverged], None],
) -> None:
    """Train runs together that differ in what is data to a step.

    The seconds of a row are those of its own tests and its share of what was done for
    all cells at once.

    Args:
        benches: the runs.
        report, written, resume: as for `train_run`.
        finished: is called with the position of a run and what became of it, in order.
    """
    clock = Stopwatch()
    provenance.reset_peak()
    # Counting adapts models of its own: before the training, as for one run.
    parameters = [bench.counts() for bench in benches]
    cells = [_cell(bench) for bench in benches]

    def score_validation(population: Population, live: Sequence[int]) -> list[Any]:
        return clock.measured(validate_many, benches, population, live)

    fits = train.fit_many(
        cells,
        benches[0].objective(),
        score=score_validation,
        report=report,
        resume=resume,
    )
    scores = clock.measured(_test_many, benches, cells, fits)
    # What was done for all of them at once, divided among them.
    seconds = clock.total() / len(benches)
    evaluating = clock.spent / len(benches)
    together = {"cells": len(benches), "seconds": round(clock.total(), 3)}
    for index, bench in enumerate(benches):
        fit = fits[index]
        if isinstance(fit, train.Diverged):
            finished(index, fit)
            continue
        alone = Stopwatch()
        tests = test_texts(bench, fit.model, alone, written)
        tests = tests._replace(scores={**scores[index], **tests.scores})
        times = times_of(fit.tokens, seconds + alone.total(), evaluating + alone.spent)
        row = complete_row(bench, parameters[index], fit, tests, times)
        finished(index, Trained(fit.model, {**row, "population": together}, bench))


def _cell(bench: Workbench) -> train.Cell:
    """The bench's run as a cell of a population."""
    model, mask = bench.adapted()
    return train.Cell(model, mask, bench.run.train, bench.run.seed)


def _test_many(
    benches: Sequence[Workbench],
    cells: Sequence[train.Cell],
    fits: Sequence[train.Fit | train.Diverged],
) -> dict[int, dict[str, dict[str, float]]]:
    """The scores of the splits that training did not see, by cell.

    Those that texts are generated for are left out.
    """
    scores: dict[int, dict[str, dict[str, float]]] = {}
    models = []
    for index, fit in enumerate(fits):
        if isinstance(fit, train.Fit):
            models.append(fit.model)
            scores[index] = {}
    splits = set(benches[0].encoded) - {"train", "validation"}
    if not models or not splits:
        return scores
    # Those that diverged have nothing to be tested.
    live = list(scores)
    population = gather(models, [cells[index].mask for index in live])
    # One model of a loop at a time is never slow, and needs the least memory.
    population = population._replace(together=1)
    live_benches = [benches[index] for index in live]
    for split in benches[0].encoded:
        if split in splits:
            everyone = range(len(live))
            by_cell = score_many(live_benches, population, split, everyone)
            for index, cell_scores in zip(live, by_cell, strict=True):
                scores[index][split] = cell_scores.metrics
    return scores
