"""What runs will cost, known before the first one starts: parameters and time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lora_jax import devices, methods
from lora_jax.accounting import step_time
from lora_jax.experiment import fitting
from lora_jax.experiment.config import NO_METHOD, RunConfig
from lora_jax.experiment.identity import key
from lora_jax.experiment.measurement import Measurement, labels
from lora_jax.experiment.workbench import Workbench, Workbenches


class Forecast(NamedTuple):
    """The cost of one run."""

    counts: methods.Counts
    operations: float  # of a float32 product, roughly; see `step_time.product_speed`


def forecasts(runs: Sequence[RunConfig], benches: Workbenches) -> dict[str, Forecast]:
    """Return the forecast of each run, by its key.

    Adapting a model finds every wrong option of a method, so this is a check too.

    Raises:
        ValueError: a run's method, model and data do not go together, or its step does
            not fit the memory of a device.
    """
    # Model and splits of a run may be dropped for the next one's: all is asked at once.
    # By key, for runs are values with mappings in them, which cannot be keys.
    by_key = {}
    memory = devices.memory_bytes()
    for run in runs:
        bench = benches.bench(run)
        step = fitting.step_of(bench)
        if step is not None:
            fitting.check_fits(step, memory)
        by_key[key(run.flat())] = Forecast(bench.counts(), _operations(bench))
    return by_key


def plan_lines(
    items: Sequence[Measurement],
    pending: Sequence[Measurement],
    by_key: Mapping[str, Forecast],
) -> list[str]:
    """Return a line for each row, under a heading: to do or done, and its parameters."""
    names = labels([item.config() for item in items])
    lines = [f"{'':8}{'adapter':>12}{'head':>10}"]
    pending_keys = {item.key() for item in pending}
    for item, label in zip(items, names, strict=True):
        status = "to do" if item.key() in pending_keys else "done"
        adapter = ""
        head = ""
        # A comparison of several runs has no count of its own.
        if len(item.runs) == 1:
            counts = by_key[item.run_keys()[0]].counts
            adapter = f"{counts.adapter:,}"
            head = f"{counts.head:,}"
        lines.append(f"{status:8}{adapter:>12}{head:>10}  {label}")
    return lines


def seconds(runs: Sequence[RunConfig], by_key: Mapping[str, Forecast]) -> float:
    """Return roughly the seconds that runs take on this machine, one after the other."""
    operations = 0.0
    for run in runs:
        operations += by_key[key(run.flat())].operations
    # The speed is measured only when somebody wants to know: that takes a second.
    return operations / step_time.product_speed() if operations else 0.0


def _operations(bench: Workbench) -> float:
    """Roughly the operations of the bench's run."""
    run = bench.run
    tokens = {}
    for split, encoded in bench.encoded.items():
        tokens[split] = int(encoded.offsets[-1])
    # A beam's tokens cost as much each as a text's.
    for split, prompts in bench.prompts.items():
        tokens[split] = len(prompts) * run.decode.beam * run.decode.new_tokens
    epochs = 0 if run.method == NO_METHOD else run.train.epochs
    return step_time.estimate_operations(
        bench.model, tokens, epochs, run.train.compute_dtype
    )
