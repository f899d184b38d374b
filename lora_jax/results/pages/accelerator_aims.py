"""What is aimed at on an accelerator, and whether it was reached.

The aims were fixed before anything was measured. No paper has them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from lora_jax.results.pages.fit_names import GB, names
from lora_jax.results.rows import Row

SHARE = 0.5  # of the published peak, at 4 N operations a token
QUANTIZED = 1.05  # times the step on a base in bfloat16
POPULATION_SECONDS = 60.0
POPULATION_CELLS = 75
MEMORY = 0.1  # how far the measured may be from the predicted, as a share

Parts = Mapping[str, Sequence[Row]]


class Result(NamedTuple):
    """How far something is from its bound, 1 being the bound itself, and in words."""

    distance: float
    text: str


def aim_table(by_part: Parts) -> pd.DataFrame:
    """Return a line for each aim, with the result that is farthest from it."""
    aims = {
        "steps of LoRA on Llamas: 50 % of the peak or more": _shares,
        "on a base in NF4: 1.05 times the time in bfloat16 or less": _quantized,
        "75 cells of the quick sweep: a minute or less": _populations,
        "memory of a step: within 10 % of the prediction": _memories,
        "tests on the device: none fails": _tests,
    }
    lines = []
    for aim, results_of in aims.items():
        line = {"aim": aim, "farthest from it": "not measured", "reached": ""}
        results = list(results_of(by_part))
        if results:
            worst = max(results)
            line["farthest from it"] = worst.text
            line["reached"] = "yes" if worst.distance <= 1 else "no"
        lines.append(line)
    return pd.DataFrame(lines)


def _shares(by_part: Parts) -> Iterator[Result]:
    for row in by_part["steps"]:
        share = row["metrics"].get("step/share_of_peak")
        # Of a device without a published peak there is none.
        if share and row["config"]["model"].startswith("llama"):
            yield Result(SHARE / share, f"{100 * share:.1f} %, {_step(row)}")


def _quantized(by_part: Parts) -> Iterator[Result]:
    plain = {}
    for row in by_part["steps"]:
        if row["config"]["quantize"] == "none":
            plain[_shape(row)] = row["metrics"]["step/seconds"]
    for row in by_part["steps"]:
        is_llama = row["config"]["model"].startswith("llama")
        if row["config"]["quantize"] != "none" and is_llama and _shape(row) in plain:
            ratio = row["metrics"]["step/seconds"] / plain[_shape(row)]
            yield Result(ratio / QUANTIZED, f"{ratio:.2f} times, {_step(row)}")


def _populations(by_part: Parts) -> Iterator[Result]:
    for row in by_part["population"]:
        metrics = row["metrics"]
        if metrics["population/cells"] == POPULATION_CELLS:
            seconds = metrics["population/seconds"]
            text = f"{seconds:.0f} s with {row['weights']} weights"
            yield Result(seconds / POPULATION_SECONDS, text)


def _memories(by_part: Parts) -> Iterator[Result]:
    predicted = {}
    for row in by_part["predictions"]:
        if total := row["metrics"].get("bytes/total"):
            predicted[tuple(names(row))] = total
    for row in by_part["steps"]:
        metrics = row["metrics"]
        total = predicted.get(tuple(names(row)))
        peak = metrics.get("bytes/peak", 0)
        # What was in use before the first step is not the step's.
        if total and peak > metrics.get("bytes/before", math.inf):
            text = f"{peak / GB:.2f} of {total / GB:.2f} GB, {_step(row)}"
            yield Result(abs(peak / total - 1) / MEMORY, text)


def _tests(by_part: Parts) -> Iterator[Result]:
    failed = passed = 0
    for row in by_part["tests"]:
        failed += int(row["metrics"]["tests/failed"])
        passed += int(row["metrics"]["tests/passed"])
    if by_part["tests"]:
        # One is too many.
        yield Result(2.0 * failed, f"{failed} failed, {passed} passed")


def _step(row: Row) -> str:
    config = row["config"]
    return f"{config['model']}, {config['batch']} x {config['length']}"


def _shape(row: Row) -> tuple:
    config = row["config"]
    # NF4 may leave room to compute nothing anew where bfloat16 does not.
    return config["model"], config["batch"], config["length"]
