"""The parts of `experiments/accelerator.py`: what is measured, and in what time.

A part is a function of settings that yields a row for each of them, or None for what is
left out, which it says. A row is on disk before the next is measured: the machine may
be lent, and vanish.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import jax

from lora_jax.accounting import (
    compile_apart,
    device_tests,
    machines,
    measure_apart,
    peft_model,
)
from lora_jax.accounting.fitted_step import NOT_QUANTIZED, FittedStep
from lora_jax.accounting.measure_apart import TIME_IS_UP, Deadline, LeftOut
from lora_jax.accounting.measured_step import fitted_step_of, nominal_operations
from lora_jax.experiment.measurement import Measurement, Settings
from lora_jax.results.rows import Row

# In the order of what says most, for the time may end; tests last, as their number is
# known from elsewhere.
PARTS = ("predictions", "steps", "population", "tests", "peers")
MEASURED = PARTS[1:]
OURS, PEER = "lora_jax", "peft"
_STEP_MODULES = {
    OURS: "lora_jax.accounting.measured_step",
    PEER: "lora_jax.accounting.measured_peer",
}
_POPULATION_MODULE = "lora_jax.experiment.timed_population"
Results = Iterator[Row | None]


class Sitting(NamedTuple):
    """How all parts are measured: until when, and whether in processes of their own."""

    deadline: Deadline
    apart: bool

    def predictions(self, _trained: Any, settings: Sequence[Settings]) -> Results:
        """Compile each step for its machine, which need not be there."""
        for setting in settings:
            step = fitted_step_of(setting)
            if self.deadline.left <= 0:
                yield _said(setting, LeftOut(TIME_IS_UP))
                continue
            # Most of the time is the compiler's.
            start = time.monotonic()
            row = compile_apart.cost(step)
            row["metrics"]["step/nominal_operations"] = nominal_operations(step)
            yield {**row, "seconds": round(time.monotonic() - start, 3)}

    # The rest of the parts have a module each, of which `measure` returns one row.

    def steps(self, _trained: Any, settings: Sequence[Settings]) -> Results:
        """Time our own steps."""
        return self._measured(_STEP_MODULES[OURS], settings)

    def peers(self, _trained: Any, settings: Sequence[Settings]) -> Results:
        """Time the same steps in torch and peft."""
        return self._measured(_STEP_MODULES[PEER], settings)

    def population(self, _trained: Any, settings: Sequence[Settings]) -> Results:
        """Train a sweep as one population."""
        return self._measured(_POPULATION_MODULE, settings)

    def tests(self, _trained: Any, settings: Sequence[Settings]) -> Results:
        """Run groups of tests on the device."""
        groups = [setting["group"] for setting in settings]
        answers = device_tests.run(groups, self.deadline)
        for setting, answer in zip(settings, answers, strict=True):
            yield _said(setting, answer)

    def _measured(self, module: str, settings: Sequence[Settings]) -> Results:
        answers = self._here(module, settings)
        if self.apart:
            answers = measure_apart.answers(module, settings, self.deadline)
        for setting, answer in zip(settings, answers, strict=True):
            yield _said(setting, answer)

    def _here(
        self, module: str, settings: Sequence[Settings]
    ) -> Iterator[Row | LeftOut]:
        measure = import_module(module).measure
        for setting in settings:
            # Here nothing that is begun can be stopped.
            if self.deadline.left <= 0:
                yield LeftOut(TIME_IS_UP)
                continue
            try:
                yield measure(setting)
            # As of a package that is not installed.
            except ValueError as error:
                yield LeftOut(str(error))


def part_measurements(
    sitting: Sitting,
    parts: Sequence[str],
    steps: Sequence[FittedStep],
    *,
    times: int,
    population: Mapping[str, Any],
    groups: Sequence[str],
) -> list[Measurement]:
    """Return the rows of the parts, in their order.

    Steps that a peer lacks a package for are said and left out.
    """
    settings: dict[str, list[dict[str, Any]]] = {
        "predictions": [step._asdict() for step in steps],
        "steps": [_timed(step, OURS, times) for step in steps],
        "peers": [],  # those below
        "population": [dict(population)],
        "tests": [{"group": group} for group in groups],
    }
    if "peers" in parts:
        has_peers = _steps_with_peers(steps)
        settings["peers"] = [_timed(step, PEER, times) for step in has_peers]
    items = []
    for part in parts:
        # One function for all rows of a part, so that they are measured together.
        measure = getattr(sitting, part)
        for values in settings[part]:
            items.append(Measurement((), {"part": part, **values}, measure))
    return items


def possible_parts(only: Sequence[str], machine: str, *, cpu: bool) -> list[str]:
    """Return the parts that can be measured here: those of `only`, or of all.

    What is left out of all is said in a line; `cpu` measures on a processor too.

    Raises:
        ValueError: a part that `only` names cannot be measured, or is none.
    """
    unknown = [part for part in only if part not in PARTS]
    if unknown:
        raise ValueError(
            f"only: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}"
        )
    reasons = {}
    # Only the compiler has to be there, not its device.
    if missing := machines.missing_compilers([machine]):
        reasons["predictions"] = missing[0]
    if missing := peft_model.missing_packages(peft_model.PACKAGES):
        reasons["peers"] = missing
    # A Llama of 8 billion parameters would take hours.
    if jax.default_backend() == "cpu" and not cpu:
        reason = "expected a GPU or TPU, got a processor; --cpu measures on it"
        reasons |= dict.fromkeys(MEASURED, reason)
    parts, lines = [], []
    for part in only or PARTS:
        if part in reasons:
            lines.append(f"{part}: {reasons[part]}")
        else:
            parts.append(part)
    # Somebody who names a part wants to know of it.
    if only and lines:
        raise ValueError("; ".join(lines))
    for line in lines:
        print(f"left out: {line}", flush=True)
    return parts


def _steps_with_peers(steps: Sequence[FittedStep]) -> list[FittedStep]:
    missing = peft_model.missing_packages([peft_model.QUANTIZER])
    if not missing:
        return list(steps)
    print(f"left out: peers of steps on a quantized base: {missing}", flush=True)
    return [step for step in steps if step.quantize == NOT_QUANTIZED]


def _timed(step: FittedStep, framework: str, times: int) -> dict[str, Any]:
    return {"framework": framework, "times": times, **step._asdict()}


def _said(setting: Settings, answer: Row | LeftOut) -> Row | None:
    """The row, or None after a line on why there is none."""
    if not isinstance(answer, LeftOut):
        return answer
    # As much as tells it from the others of its part.
    names = ("part", "group", "model", "quantize", "batch", "length")
    words = [str(setting[name]) for name in names if name in setting]
    print(f"left out: {' '.join(words)}: {answer}", flush=True)
    return None
