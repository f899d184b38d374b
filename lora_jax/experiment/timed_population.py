"""How long the quick rank sweep takes as one population, on the device at hand.

Texts and weights are those of the sweep where they can be read. Where they cannot,
weights and texts are random ones of the same sizes, which take as long; the row says
which.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lora_jax import data, train
from lora_jax.accounting.fitted_step import FittedStep
from lora_jax.accounting.random_model import random_model
from lora_jax.experiment import check
from lora_jax.experiment.config import DataConfig, RunConfig
from lora_jax.experiment.grid import grid
from lora_jax.experiment.run import Trained
from lora_jax.experiment.run_many import train_population
from lora_jax.experiment.workbench import Workbench, Workbenches

RANDOM, PRETRAINED = "random", "pretrained"
# Settings of the run that a row has beside the axes.
SHARED = ("model", "data", "rows", "validation_rows", "max_length", "epochs", "batch")
TESTED = 1000  # random rows to test on


def population_settings(
    base: RunConfig, targets: Sequence[str], ranks: Sequence[int], seeds: int
) -> dict[str, Any]:
    """Return the settings of a row: sets of matrices, ranks, and a number of seeds."""
    flat = base.flat()
    shared = {name: flat[name] for name in SHARED}
    return {**shared, "sets": list(targets), "ranks": list(ranks), "seeds": seeds}


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of `population_settings`.

    `metrics` has the number of cells, the seconds of training and testing all of them,
    compilation included, the tokens a second over all cells, the steps, and the mean
    accuracy on test if the weights are pretrained; and where the device counts, the
    most bytes that were ever allocated.
    """
    runs = _runs(settings)
    # What is read from files is no part of the time.
    start = time.monotonic()
    benches, weights = _benches(runs)
    loading = time.monotonic() - start
    results: list[Trained | train.Diverged] = []

    def finished(_index: int, result: Trained | train.Diverged) -> None:
        results.append(result)

    # From here on everything counts, what is compiled as well.
    start = time.monotonic()
    train_population(benches, finished=finished)
    seconds = time.monotonic() - start
    rows = [result.row for result in results if isinstance(result, Trained)]
    tokens = sum(row["tokens"] for row in rows)
    metrics: dict[str, Any] = {
        "population/cells": len(benches),
        "population/diverged": len(results) - len(rows),
        "population/seconds": seconds,
        "population/tokens_per_second": tokens / seconds,
        "population/steps": max((row["steps"] for row in rows), default=0),
    }
    # A score on random texts says nothing.
    if weights == PRETRAINED:
        scores = [row["metrics"]["test/accuracy"] for row in rows]
        metrics["test/accuracy"] = float(np.mean(scores)) if scores else None
    # A processor keeps no count.
    counts = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in counts:
        metrics["bytes/peak"] = counts["peak_bytes_in_use"]
    return {
        "metrics": metrics,
        "seconds": round(seconds, 3),
        "seconds_preparing": round(loading, 3),
        "weights": weights,
        "device": jax.devices()[0].device_kind,
    }


def _runs(settings: Mapping[str, Any]) -> list[RunConfig]:
    shared = {name: settings[name] for name in SHARED}
    axes = {"targets": settings["sets"], "rank": settings["ranks"]}
    base = RunConfig().changed(**shared)
    return grid(base, seed=range(settings["seeds"]), **axes)


def _benches(runs: Sequence[RunConfig]) -> tuple[list[Workbench], str]:
    """Return the benches of the runs, and whether their weights are pretrained."""
    benches = Workbenches()
    try:
        complete = check.resolved(runs, benches)
        return [benches.bench(run) for run in complete], PRETRAINED
    # Neither kept from before nor to be downloaded.
    except OSError:
        return _random_benches(runs), RANDOM


def _random_benches(runs: Sequence[RunConfig]) -> list[Workbench]:
    """Return benches of random weights and texts, of the sizes that the runs name."""
    model = _random_weights(runs[0])
    task, encoded = _random_task(runs[0].data, model.config.vocabulary)
    benches = []
    for run in map(check.with_dtype, runs):
        bench = Workbench(
            run,
            model,
            tokenizer=None,  # the texts are tokens already
            task=task,
            encoded=encoded,
            prompts={},
            widths=data.widths(run.data.longest),
            pad=model.config.pad,
        )
        benches.append(bench)
    return benches


def _random_weights(run: RunConfig) -> Any:
    step = FittedStep(
        run.model,
        # Of a step's settings the model's storage alone matters here.
        method="lora",
        targets="query",
        rank=1,
        quantize="none",
        dtype="float32",
        compute="float32",
        batch=run.train.batch,
        length=run.data.longest,
        recompute="none",
        machine="cpu",
    )
    return random_model(step)


def _random_task(
    config: DataConfig, vocabulary: int
) -> tuple[data.Task, dict[str, data.Encoded]]:
    """Return a task of two classes, and its splits as tokens."""
    sizes = {
        "train": config.rows,
        "validation": config.validation_rows,
        "test": TESTED,
    }
    splits, encoded = {}, {}
    for name, count in sizes.items():
        rows = _random_rows(count, config.longest, vocabulary)
        encoded[name] = rows
        # Nobody reads the texts: what they are is in the tokens.
        splits[name] = data.Examples([""] * count, None, rows.label)
    task = data.Task(RANDOM, ("0", "1"), ("accuracy",), splits, source=RANDOM)
    return task, encoded


def _random_rows(count: int, longest: int, vocabulary: int) -> data.Encoded:
    """Return rows of an eighth of the longest to the longest, of two classes."""
    # The same ones in all splits: what they say does not matter.
    rng = np.random.default_rng(0)
    lengths = rng.integers(max(1, longest // 8), longest + 1, count)
    offsets = np.concatenate([[0], lengths.cumsum()])
    # The first tokens of a vocabulary are special.
    tokens = rng.integers(5, vocabulary, offsets[-1], dtype=np.int32)  # [S]
    label = rng.integers(0, 2, count, dtype=np.int32)
    return data.Encoded(tokens, np.zeros_like(tokens), offsets, label)
