"""One training run: adapt, train, keep the best epoch, score every other split."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lora_jax import methods, train
from lora_jax.experiment import provenance
from lora_jax.experiment.scoring import (
    flat_metrics,
    generate,
    majority,
    metric_names,
    score,
    validate,
)
from lora_jax.experiment.workbench import Workbench
from lora_jax.results.baselines import PREDICTED
from lora_jax.results.rows import Row

CURVE_POINTS = 64  # enough for a figure; all losses would make rows long


class Trained(NamedTuple):
    """A trained run: the model with what it learned, the training's row, its bench."""

    model: Any
    row: Row
    bench: Workbench


class Tests(NamedTuple):
    """The scores of every split but those of training, and what was generated."""

    scores: dict[str, dict[str, float]]
    written: dict[str, Row]


class Stopwatch:
    """Seconds since it was made, and those spent in what it measured."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.spent = 0.0

    def measured(self, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.monotonic()
        result = function(*arguments)
        self.spent += time.monotonic() - start
        return result

    def total(self) -> float:
        return time.monotonic() - self.start


def train_run(
    bench: Workbench,
    *,
    report: Callable[[train.Progress], None] | None = None,
    written: Callable[[int, int], None] | None = None,
    resume: Path | None = None,
) -> Trained:
    """Train the bench's run and return its model and row, without key and provenance.

    Args:
        bench: the run, its model and its data.
        report: is called after each step of the training.
        written: is called as texts are generated, with their number and that of all.
        resume: a folder that a training of minutes is saved to now and then, and
            continues from.

    Raises:
        train.Diverged: the loss is not finite.
    """
    clock = Stopwatch()
    provenance.reset_peak()
    # Counting adapts a model of its own: before the training, whose memory is measured.
    parameters = bench.counts()
    fit = _fit(bench, clock, report, resume)
    tests = _test(bench, fit.model, clock, written)
    times = times_of(fit.tokens, clock.total(), clock.spent)
    row = complete_row(bench, parameters, fit, tests, times)
    return Trained(fit.model, row, bench)


def complete_row(
    bench: Workbench,
    parameters: methods.Counts,
    fit: train.Fit,
    tests: Tests,
    times: Row,
) -> Row:
    """The row of a finished training."""
    # The best epoch's scores are known from training.
    validation = dict(fit.validation[fit.best_epoch - 1])
    # What tells a collapse is no score: it stays in the course of the training.
    validation.pop(PREDICTED, None)
    scores = {"validation": validation, **tests.scores}
    for split, by_name in scores.items():
        by_name |= majority(bench, split)
    row: Row = {
        "config": bench.run.flat(),
        "metrics": flat_metrics(scores),
        "examples": {split: _size(bench, split) for split in bench.task.splits},
        "parameters": parameters._asdict(),
        **_course(fit, bench.run.train.epochs),
        **times,
        "peak_memory_mb": provenance.peak_mb(),
    }
    # Of a language model also the curve, for one epoch is all it has.
    if tests.written:
        row["curve"] = _curve(fit.losses)
        row["written"] = tests.written
    return row


def diverged_row(bench: Workbench) -> Row:
    """Return the row of a training that diverged: it has the metrics, without values."""
    scores = {}
    for split in bench.task.splits:
        if split != "train":
            scores[split] = dict.fromkeys(metric_names(bench, split))
    return {
        "config": bench.run.flat(),
        "metrics": flat_metrics(scores),
        "examples": {split: _size(bench, split) for split in bench.task.splits},
        "parameters": bench.counts()._asdict(),
    }


def _fit(
    bench: Workbench,
    clock: Stopwatch,
    report: Callable[[train.Progress], None] | None,
    resume: Path | None,
) -> train.Fit:
    """Train, with the validation's score after each epoch."""
    model, mask = bench.adapted()

    def score_validation(candidate: Any) -> dict[str, float]:
        return clock.measured(validate, bench, candidate)

    # The pretrained model as it is: one epoch of no steps.
    if mask is None:
        return train.Fit(model, 1, [score_validation(model)], np.zeros(0, "f4"), 0)
    return train.fit(
        model,
        mask,
        bench.objective(),
        bench.run.train,
        seed=bench.run.seed,
        score=score_validation,
        report=report,
        resume=resume,
    )


def _test(
    bench: Workbench,
    model: Any,
    clock: Stopwatch,
    report: Callable[[int, int], None] | None,
) -> Tests:
    """Score the splits that training did not see."""
    scores: dict[str, dict[str, float]] = {}
    for split in bench.encoded:
        if split not in ("train", "validation"):
            scores[split] = clock.measured(score, bench, model, split)
    tests = test_texts(bench, model, clock, report)
    return tests._replace(scores={**scores, **tests.scores})


def test_texts(
    bench: Workbench,
    model: Any,
    clock: Stopwatch,
    report: Callable[[int, int], None] | None,
) -> Tests:
    """Score the splits that texts are generated for."""
    scores: dict[str, dict[str, float]] = {}
    written: dict[str, Row] = {}
    for split in bench.prompts:
        generated = clock.measured(generate, bench, model, split, report)
        scores[split] = generated.scores
        written[split] = generated.facts
    return Tests(scores, written)


def _course(fit: train.Fit, epochs: int) -> Row:
    """How the training went."""
    return {
        "best_epoch": fit.best_epoch,
        "validation": fit.validation,
        "loss": _loss_by_epoch(fit.losses, epochs),
        "steps": len(fit.losses),
        "tokens": fit.tokens,
        "remat": fit.remat,
        "mesh": fit.mesh,
    }


def times_of(tokens: int, seconds: float, evaluating: float) -> Row:
    """Seconds in all and evaluating, and the speed of training alone."""
    training = seconds - evaluating
    return {
        "seconds": round(seconds, 3),
        "seconds_evaluating": round(evaluating, 3),
        "tokens_per_second": round(tokens / training, 1),
    }


def _size(bench: Workbench, split: str) -> int:
    """The examples of a split; where targets are generated, its sources."""
    if split in bench.prompts:
        return len(bench.prompts[split])
    return len(bench.encoded[split].label)


def _loss_by_epoch(losses: np.ndarray, epochs: int) -> list[float]:
    # All epochs have the same number of steps.
    parts = np.array_split(losses, epochs)
    return [float(part.mean()) for part in parts if len(part)]


def _curve(losses: np.ndarray) -> list[list[float]]:
    """[step, mean loss of the steps since the last point], at 64 points."""
    points = []
    # Short trainings have fewer steps than points: some of the parts are empty.
    for steps in np.array_split(np.arange(len(losses)), CURVE_POINTS):
        if len(steps):
            mean = float(losses[steps].mean())
            points.append([int(steps[-1]) + 1, round(mean, 4)])
    return points
