"""The runs of a sweep: every combination of some settings."""

import itertools
from collections.abc import Sequence
from typing import Any

from lora_jax import methods, tree
from lora_jax.experiment.config import NO_METHOD, RunConfig, method_defaults, part_of

# Learning rates relative to LoRA's, from trials on 512 rows of E2E (LOG.md). BitFit's
# is a guess, for no model of the trials has biases.
RATES = {
    "full": 0.05,
    "top": 0.5,
    "bitfit": 1.0,
    "adapter_l": 2.0,
    "adapter_h": 1.0,
    "prefix": 2.5,
}


def grid(base: RunConfig, **axes: Sequence[Any]) -> list[RunConfig]:
    """Return `base` with every combination of the axes; the last axis varies fastest.

    An axis that is no field of a run is an option of its method. One that the method
    does not take is left out.

    Raises:
        ValueError: an axis has no value, or several values of an option that the method
            does not take.
    """
    for name, values in axes.items():
        if not values:
            raise ValueError(f"{name}: expected at least one value, got none")
        # A single value may be a default for several methods; a sweep would repeat runs.
        if len(values) > 1 and not takes(base.method, name):
            values_text = " ".join(map(str, values))
            raise ValueError(
                f"{name}: {base.method} takes no {name}: expected one value, "
                f"got {values_text}"
            )
    # As nested loops in the order of the axes.
    runs = []
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        runs.append(base.changed(**settings))
    return runs


def takes(method: str, name: str) -> bool:
    """Return whether a setting is a field of every run, or an option of the method."""
    return part_of(name) is not None or name in method_defaults(method)


def grid_of_methods(
    base: RunConfig,
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    rates: dict[str, float] | None = None,
) -> list[RunConfig]:
    """Return one run for each seed and method.

    The learning rate is that of `base` times the method's own factor. Full fine-tuning
    gets arrays, since quantized weights cannot be trained. The pretrained model as it
    is (`none`) has no seed and no learning rate: it is there once.

    Raises:
        ValueError: there is no such method, with the nearest names.
    """
    candidates = [NO_METHOD, *methods.METHODS]
    unknown = [name for name in names if name not in candidates]
    if unknown:
        raise ValueError(
            f"methods: expected some of {tree.near(unknown[0], candidates)}, "
            f"got {', '.join(unknown)}"
        )
    # An experiment may have trials of its own.
    factors = RATES if rates is None else rates
    runs = []
    for seed in seeds:
        for name in names:
            runs.append(_run_of_method(base, name, seed, factors.get(name, 1.0)))
    return runs


def _run_of_method(
    base: RunConfig, name: str, seed: int, rate_factor: float
) -> RunConfig:
    # The same run for all seeds and rates.
    if name == NO_METHOD:
        return base.changed(method=name, seed=0)
    rate = base.train.learning_rate * rate_factor
    run = base.changed(method=name, seed=seed, learning_rate=rate)
    return run.changed(quantize="float") if name == "full" else run
