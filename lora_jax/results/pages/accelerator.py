"""The page on a device's own numbers: its tables, and what is aimed at.

A row is a part: a step that was compiled (`predictions`), timed (`steps`), or timed in
torch and peft (`peers`); a sweep that was trained as one `population`; a group of
`tests`. Sizes are in GB of 10^9 bytes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lora_jax.plural import counted
from lora_jax.results.agreement import Comparison
from lora_jax.results.pages.accelerator_aims import aim_table
from lora_jax.results.pages.fit import compiler_lines
from lora_jax.results.pages.fit_names import GB, SETTINGS, names, scaled
from lora_jax.results.report import SMOKE, Report, Section
from lora_jax.results.rows import Row
from lora_jax.results.tables import clock, table

MILLI = 1000
PERCENT = 100
NOT_MEASURED = """
**Nothing in this table was measured: no GPU was at hand when its rows were made.** What
stands in it is compiled for a GPU that was not there: the memory that a step takes, and
the time that it takes at least. The other columns are empty until the script has run on
one.
"""
COLUMNS = """
- *predicted, GB* is what the compiled step needs in all, by the compiler for the machine
  that is named, which need not be there; *floor, ms* what it takes **at least**, by the
  machine's published peak and bandwidth ([fit](../fit/README.md) says how).
- *of peak, %* counts 4 N operations a token, N being the elements of the matrices that
  it is multiplied with: the papers' count of a step of LoRA. What the backward pass
  computes anew and attention are none of them, so that even at the floor the share is
  *at most, %*.
- *step, ms* is the median, and *memory, GB* the most that the device's allocator ever
  had in use, in a process of the step's own. *peft* is the same step in torch and peft,
  its memory what torch's allocator had in use; where it did not fit, its blocks were
  computed anew (*peft remat*).
"""
STEP_COLUMNS = {  # and how many decimals they have
    "predicted, GB": 2,
    "floor, ms": 1,
    "at most, %": 0,
    "step, ms": 1,
    "tokens/s": 0,
    "of peak, %": 1,
    "memory, GB": 2,
    "peft, ms": 1,
    "peft, GB": 2,
    "peft remat": 0,
    "step / peft": 2,
}
# Another version of a compiler lays buffers out in another way.
PREDICTED = Comparison(by=SETTINGS, value="predicted, GB", error="", relative=0.1)
# Times of another device are other times: half as much again says little.
TIMED = Comparison(by=SETTINGS, value="step, ms", error="", relative=0.5)


def report(rows: Iterable[Row], intro: str | None) -> Report:
    """Return the page of the rows."""
    by_part = _by_part(rows)
    steps = step_table(by_part)
    sections = []
    if not steps.empty:
        sections.append(Section("Training steps", _step_blocks(by_part, steps)))
    if population := by_part["population"]:
        blocks = [population_table(population), *_weight_notes(population)]
        sections.append(Section("A sweep as one population", blocks))
    if tests := by_part["tests"]:
        blocks = [test_table(tests), *_failures(tests)]
        sections.append(Section("Tests on the device", blocks))
    sections.append(Section("What is aimed at", [aim_table(by_part)]))
    sections.append(Section("Devices and compilers", [_origins(by_part)]))
    return Report(
        title="On an accelerator",
        intro=intro,
        sections=sections,
        data=steps,
        comparison=TIMED if by_part["steps"] else PREDICTED,
    )


def step_table(by_part: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """Return a line for each step; what nobody predicted or measured is missing."""
    lines: dict[tuple, dict[str, Any]] = {}
    columns = {
        "predictions": _predicted,
        "steps": _measured,
        "peers": _measured_of_peer,
    }
    for part, columns_of in columns.items():
        for row in by_part[part]:
            step = tuple(names(row))
            line = lines.setdefault(step, dict(zip(SETTINGS, step, strict=True)))
            line |= columns_of(row["metrics"])
            if "recomputed" in row:
                line["peft remat"] = row["recomputed"]
    frame = pd.DataFrame(list(lines.values()), columns=[*SETTINGS, *STEP_COLUMNS])
    frame["step / peft"] = frame["step, ms"] / frame["peft, ms"]
    # Whatever the order of rows.
    return frame.sort_values([*SETTINGS]).reset_index(drop=True)


def _predicted(metrics: Mapping[str, float]) -> dict[str, float]:
    at_most = math.nan
    # A processor has no published peak, and so no floor.
    if "floor/products" in metrics:
        seconds_at_peak = metrics["floor/products"]
        seconds_at_peak *= (
            metrics["step/nominal_operations"] / metrics["step/operations"]
        )
        at_most = PERCENT * seconds_at_peak / metrics["floor/seconds"]
    return {
        "predicted, GB": scaled(metrics, "bytes/total", GB),
        "floor, ms": scaled(metrics, "floor/seconds", 1 / MILLI),
        "at most, %": at_most,
    }


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        "step, ms": MILLI * metrics["step/seconds"],
        "tokens/s": metrics["step/tokens_per_second"],
        "of peak, %": scaled(metrics, "step/share_of_peak", 1 / PERCENT),
        "memory, GB": scaled(metrics, "bytes/peak", GB),
    }


def _measured_of_peer(metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        "peft, ms": MILLI * metrics["step/seconds"],
        "peft, GB": scaled(metrics, "bytes/peak", GB),
    }


def _step_blocks(
    by_part: Mapping[str, Sequence[Row]], steps: pd.DataFrame
) -> list[str]:
    blocks = [] if by_part["steps"] else [NOT_MEASURED]
    # A tiny random model's numbers mean nothing.
    if steps["model"].str.startswith("tiny").any():
        blocks.append(SMOKE)
    return [*blocks, table(steps, digits=STEP_COLUMNS), COLUMNS]


def population_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a line for each sweep that was trained as one population."""
    lines = []
    for row in rows:
        config, metrics = row["config"], row["metrics"]
        line = {
            "model": config["model"],
            "data": config["data"],
            "sets x ranks": f"{len(config['sets'])} x {len(config['ranks'])}",
            "seeds": config["seeds"],
            "cells": int(metrics["population/cells"]),
            "time": clock(metrics["population/seconds"]),
            "steps": int(metrics["population/steps"]),
            "tokens/s": round(metrics["population/tokens_per_second"]),
            "memory, GB": scaled(metrics, "bytes/peak", GB),
            "accuracy, %": scaled(metrics, "test/accuracy", 1 / PERCENT),
            "weights": row["weights"],
        }
        lines.append(line)
    return pd.DataFrame(lines)


def _weight_notes(rows: Iterable[Row]) -> list[str]:
    """What the table has to say of weights and cells."""
    notes = ["The time has compilation and all tests in it, but not loading."]
    if any(row["weights"] == "random" for row in rows):
        notes.append(
            "Where weights are random, the pretrained ones could not be read there, nor "
            "the texts: both are random ones of the same sizes."
        )
    diverged = sum(row["metrics"]["population/diverged"] for row in rows)
    if diverged:
        notes.append(f"{counted(int(diverged), 'cell')} diverged.")
    return notes


def test_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a line for each group of tests."""
    lines = []
    for row in sorted(rows, key=lambda row: row["config"]["group"]):
        line = {"tests": row["config"]["group"]}
        for outcome in ("passed", "failed", "skipped"):
            line[outcome] = int(row["metrics"][f"tests/{outcome}"])
        line["time"] = clock(row["seconds"])
        lines.append(line)
    return pd.DataFrame(lines)


def _failures(rows: Iterable[Row]) -> list[str]:
    """The tests that failed, as a list."""
    failed = sorted({name for row in rows for name in row["failed"]})
    if not failed:
        return []
    return ["Failed:", "\n".join(f"- `{name}`" for name in failed)]


def _origins(by_part: Mapping[str, Sequence[Row]]) -> str:
    """Where rows come from, a line for each compiler and each device."""
    lines = compiler_lines(by_part["predictions"])
    for part, rows in by_part.items():
        if part == "predictions":
            continue
        for row in rows:
            versions, machine = (
                row["provenance"]["versions"],
                row["provenance"]["machine"],
            )
            # torch names the device as CUDA does, and so does jax.
            device = row.get("device", machine["device"])
            libraries = f"jax {versions['jax']}"
            if "torch" in row:
                libraries = f"torch {row['torch']}"
            lines.append(f"- {part}: on {device}, {libraries}, {machine['cpu']}")
    return "\n".join(sorted(set(lines)))


def _by_part(rows: Iterable[Row]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {
        "predictions": [],
        "steps": [],
        "peers": [],
        "population": [],
        "tests": [],
    }
    for row in rows:
        parts[row["config"]["part"]].append(row)
    return parts
