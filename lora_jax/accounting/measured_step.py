"""What a training step really takes on the device at hand: seconds, and memory.

The step is one of `fitted_step`, which says what it takes at least: the same shapes,
the same settings, on random numbers.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax

from lora_jax.accounting.fitted_step import FittedStep, step_method, stored_model
from lora_jax.accounting.machines import CHIPS
from lora_jax.accounting.operations import adapted_operations
from lora_jax.accounting.random_model import random_model
from lora_jax.accounting.step_time import compile_step, time_in_turn

TIMES = "times"  # the setting: how many steps are timed


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a step with the fields of `FittedStep`, and `times`.

    `metrics` has the median of a step's seconds, tokens a second, the operations that
    papers count (`adapted_operations`) and their share of the device's published peak;
    and in bytes what the compiled step needs (`bytes/compiled`), the most that was ever
    allocated (`bytes/peak`), and the most before the first step (`bytes/before`), with
    what the compiler tried out. A processor has neither a peak nor statistics.

    Raises:
        ValueError: the step is wrong.
        jax.errors.JaxRuntimeError: it does not fit the device.
    """
    step = fitted_step_of(settings)
    # Drawn, quantized and compiled: what is waited for before the first step.
    start = time.monotonic()
    compiled = compile_step(
        random_model(step),
        step_method(step),
        batch=step.batch,
        length=step.length,
        compute_dtype=step.compute,
        remat=step.recompute,
    )
    preparing = time.monotonic() - start
    # What compiling tried out was in use too, and is no part of a step.
    before = _most_bytes()
    (seconds,) = time_in_turn([compiled], settings[TIMES])
    device = jax.devices()[0].device_kind
    metrics = speed_metrics(step, seconds, device)
    metrics["bytes/compiled"] = compiled.sizes["peak"]
    if before is not None:
        metrics |= {"bytes/before": before, "bytes/peak": _most_bytes()}
    return {
        "metrics": metrics,
        "seconds": seconds,
        "seconds_preparing": round(preparing, 3),
        "device": device,
    }


def fitted_step_of(settings: Mapping[str, Any]) -> FittedStep:
    """Return the step among a row's settings."""
    return FittedStep(**{name: settings[name] for name in FittedStep._fields})


def nominal_operations(step: FittedStep) -> int:
    """Return the operations of a step as papers count them."""
    return adapted_operations(stored_model(step), step.batch * step.length)


def speed_metrics(
    step: FittedStep, seconds: list[float], device: str
) -> dict[str, Any]:
    """Return a step's median time, its speed, and its share of the device's peak.

    The share is missing where nobody publishes a peak.
    """
    median = statistics.median(seconds)
    operations = nominal_operations(step)
    metrics = {
        "step/seconds": median,
        "step/tokens_per_second": step.batch * step.length / median,
        "step/nominal_operations": operations,
    }
    if device in CHIPS:
        metrics["step/share_of_peak"] = operations / median / CHIPS[device].peak
    return metrics


def _most_bytes() -> int | None:
    """Return the most bytes that were allocated so far; None where nobody counts."""
    counts = jax.local_devices()[0].memory_stats() or {}
    return counts.get("peak_bytes_in_use")
