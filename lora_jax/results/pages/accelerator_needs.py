"""What the page on a device's own numbers reads of a row, see `needs.py`."""

from lora_jax.results.pages import fit_needs
from lora_jax.results.row_fields import (
    COUNT,
    LIST,
    NAME,
    NUMBERS,
    POSITIVE,
    SIZE,
    TEXT,
    WHOLE,
    Kind,
    Needs,
    one_of,
)
from lora_jax.results.rows import Row

PARTS = ("predictions", "steps", "peers", "population", "tests")
PREDICTION: Needs = {
    "compiler": TEXT,
    "source": TEXT,
    "metrics.step/fits": SIZE,
    "metrics.step/nominal_operations": POSITIVE,
}
MEASURED: Needs = {
    "device": NAME,
    "seconds": NUMBERS,
    "config.framework": NAME,
    "config.times": WHOLE,
    "metrics.step/seconds": POSITIVE,
    "metrics.step/tokens_per_second": POSITIVE,
    "metrics.step/nominal_operations": POSITIVE,
}
POPULATION: Needs = {
    "device": NAME,
    "weights": NAME,
    "config.model": NAME,
    "config.data": NAME,
    "config.sets": LIST,
    "config.ranks": LIST,
    "config.seeds": COUNT,
    "metrics.population/cells": POSITIVE,
    "metrics.population/diverged": SIZE,
    "metrics.population/seconds": POSITIVE,
    "metrics.population/steps": SIZE,
    "metrics.population/tokens_per_second": SIZE,
}
TESTS: Needs = {
    "config.group": NAME,
    "failed": LIST,
    "seconds": SIZE,
    "metrics.tests/passed": SIZE,
    "metrics.tests/failed": SIZE,
    "metrics.tests/skipped": SIZE,
    "provenance.machine.device": TEXT,
}


def needs(row: Row) -> Needs:
    """Return what the page reads of a row, by its part."""
    part: Kind = one_of(*PARTS)
    return {"config.part": part, **_needs_of_part(row)}


def _needs_of_part(row: Row) -> Needs:
    name = row["config"].get("part")
    if name == "predictions":
        return {**fit_needs.SETTINGS, **PREDICTION}
    if name == "steps":
        return {**fit_needs.SETTINGS, **MEASURED}
    if name == "peers":
        return {**fit_needs.SETTINGS, **MEASURED, "torch": NAME, "recomputed": NAME}
    if name == "population":
        return POPULATION
    if name == "tests":
        # An empty list has no items.
        return {**TESTS, "failed.[]": TEXT} if row.get("failed") else TESTS
    return {}
