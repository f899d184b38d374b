"""A sweep of adapters: at one learning rate or at three, the head alone beside them.

Sets of matrices want different learning rates: rows that share one compare rates as much
as matrices. `auto` trains everything at three, and pages show the best of them
(`results.sweeps`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.grid import grid
from lora_jax.experiment.measurement import Measurement
from lora_jax.experiment.workbench import Workbenches

AUTO = "auto"
# The learning rates of `auto`, relative to the preset's. On the quick setting {query}
# wants 5 times that, and all six matrices half of it: they diverge at twice the preset's
# (LOG.md). The preset's own lies between the two, and its rows are often there already.
AUTO_FACTORS = (0.5, 1.0, 5.0)


def learning_rates(
    base: RunConfig, choice: float | Literal["auto"]
) -> tuple[float, ...]:
    """Return the learning rates of a sweep: the one chosen, or with `auto` three.

    The three are around the rate of `base`.

    Raises:
        ValueError: the one chosen is not a positive number.
    """
    if choice == AUTO:
        rate = base.train.learning_rate
        return tuple(rate * factor for factor in AUTO_FACTORS)
    # Known at once, whatever has to be downloaded first.
    if not 0 < choice < math.inf:
        raise ValueError(
            f"learning_rate: expected a number above 0, or {AUTO}, got {choice}"
        )
    return (choice,)


def head_runs(
    base: RunConfig, seeds: Sequence[int], benches: Workbenches
) -> list[RunConfig]:
    """Return the baseline of a sweep: runs that train the task's head and nothing else.

    There are none for a task whose targets are generated: it has no head.
    """
    if benches.task(base).generates:
        return []
    return grid(base.changed(method="head"), seed=seeds)


def measurements(
    runs: Iterable[RunConfig],
    rates: Sequence[float],
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> list[Measurement]:
    """Return a row for each run at each rate; `settings` are those of the row alone."""
    # One of several may be too high for some runs, which is a result.
    several = len(rates) > 1
    items = []
    for run in runs:
        for rate in rates:
            at_rate = run.changed(learning_rate=rate)
            items.append(Measurement((at_rate,), settings, may_diverge=several))
    return items
