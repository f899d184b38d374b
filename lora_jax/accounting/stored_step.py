"""What a training step costs on a base that is stored in one format or another."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from lora_jax import methods
from lora_jax.accounting.step_time import Step, compile_step, time_in_turn
from lora_jax.accounting.storage import StorageFormat, store_base


class StepCost(NamedTuple):
    """The time and the memory of a step.

    Of the metrics `step/seconds` is the median of all times, in seconds; `step/peak` and
    `step/temporary` are in bytes, see `compile_step`.
    """

    metrics: dict[str, float]
    seconds: list[float]  # of each timed step


def step_costs(
    model: Any,
    method: methods.Method,
    storages: Sequence[StorageFormat],
    *,
    batch: int,
    length: int,
    times: int,
) -> list[StepCost]:
    """Return the cost of an adapted model's step, of its base in each of the formats.

    The steps are timed in turn, each `times` times, so that a machine that slows down
    favors none.
    """
    # All are compiled before the clock runs.
    steps: list[Step] = []
    for storage in storages:
        step = compile_step(
            store_base(model, storage),
            method,
            batch=batch,
            length=length,
            compute_dtype=storage.compute_dtype,
        )
        steps.append(step)
    # The seconds of each step are in the order of the formats.
    costs = []
    for step, seconds in zip(steps, time_in_turn(steps, times), strict=True):
        metrics = {
            # The median: what else ran on the machine made some steps slow.
            "step/seconds": statistics.median(seconds),
            "step/peak": step.sizes["peak"],
            "step/temporary": step.sizes["temporary"],
        }
        costs.append(StepCost(metrics, seconds))
    return costs
