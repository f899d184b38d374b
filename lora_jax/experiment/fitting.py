"""Whether a run's training step fits a device's memory, before anything is trained.

A formula of shapes says what cannot fit (`train/footprint.py` has its terms); the
compiler says what the largest step of a dry run takes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lora_jax import devices, quant, train, tree
from lora_jax.accounting.compiled_step import step_bytes
from lora_jax.accounting.step_memory import split_shapes
from lora_jax.experiment.config import NO_METHOD, RunConfig
from lora_jax.experiment.workbench import Workbench, Workbenches
from lora_jax.train import remat

NF4_BYTES = 4.5 / 8  # of a number, with its part of a scale


class Step(NamedTuple):
    """A run's training step as shapes."""

    run: RunConfig
    trainable: Any
    frozen: Any
    rows: int  # of a batch, on one device
    length: int  # of the longest rows, in tokens


class Change(NamedTuple):
    """Settings that would take less memory than a run's own."""

    accumulate: int
    remat: str
    quantize: str

    def flags(self, run: RunConfig) -> str:
        """Return the flags of the settings that are not the run's."""
        ours = {
            "accumulate": run.train.accumulate,
            "remat": run.train.remat,
            "quantize": run.quantize,
        }
        flags = []
        for name, value in self._asdict().items():
            # auto chooses block by itself, where nothing else fits.
            is_automatic = name == "remat" and ours[name] == "auto"
            if value != ours[name] and not is_automatic:
                flags.append(f"--{name} {value}")
        return " ".join(flags)


def step_of(bench: Workbench) -> Step | None:
    """Return the step of the bench's run, or None where nothing is trained."""
    run = bench.run
    if run.method == NO_METHOD:
        return None
    trainable, frozen = split_shapes(
        bench.model, bench.method(), run.train.compute_dtype
    )
    places = train.placement(run.train)
    rows = run.train.batch // places.rows_divisor
    if places.by_rule:
        trainable = places.described(trainable)
        frozen = places.described(frozen)
    return Step(run, trainable, frozen, rows, max(bench.widths))


def check_fits(step: Step, memory: int | None) -> None:
    """Check that a step may fit a device of so many bytes; None is a device of any.

    Raises:
        ValueError: by an estimate it does not; the message names what would.
    """
    run = step.run
    least = "block" if run.train.remat == "auto" else run.train.remat
    needed = estimate(step, Change(run.train.accumulate, least, run.quantize))
    if memory is None or needed <= memory:
        return
    smaller = []
    for changes in _changes(run):
        fitting = (change for change in changes if estimate(step, change) <= memory)
        mildest = next(fitting, None)
        if mildest is not None:
            smaller.append(mildest.flags(run))
    advice = "no setting of batch, remat or quantize would"
    if smaller:
        advice = f"these would: {'; '.join(smaller)}"
    raise ValueError(
        f"model: a training step of {run.model} with {run.method} on {run.train.batch} "
        f"rows of {step.length} tokens takes about {_size(needed)}, which a device "
        f"of {_size(memory)} does not have; {advice}"
    )


def compiled_line(runs: Sequence[RunConfig], benches: Workbenches) -> str:
    """Return what the largest step of the runs takes, by the compiler; or nothing."""
    memory = devices.memory_bytes()
    largest = None
    largest_size = 0
    for run in runs:
        step = step_of(benches.bench(run))
        # Nothing is trained.
        if step is None:
            continue
        size = estimate(step, Change(run.train.accumulate, "none", run.quantize))
        if size > largest_size:
            largest, largest_size = run, size
    if largest is None:
        return ""
    total = _compiled_bytes(benches.bench(largest), memory)
    place = f" of a device's {_size(memory)}" if memory else ""
    return f"the largest step takes {_size(total)}{place}, as compiled"


def _compiled_bytes(bench: Workbench, memory: int | None) -> int:
    """The bytes of the compiled step on one device's rows."""
    step: Any = step_of(bench)
    train_config = remat.resolved(
        bench.run.train,
        step.trainable,
        step.frozen,
        rows=step.rows // bench.run.train.accumulate,
        length=step.length,
        memory=memory,
    )
    places = train.placement(bench.run.train)
    sizes = step_bytes(
        step.trainable,
        step.frozen,
        # A device that has all of the model is looked at alone.
        batch=bench.run.train.batch if places.by_rule else step.rows,
        length=step.length,
        loss=bench.objective().loss,
        config=train.step_config(train_config),
        places=places if places.by_rule else None,
    )
    return sizes["total"]


def _changes(run: RunConfig) -> list[list[Change]]:
    """Return settings that take less memory by kind, the mildest of a kind first."""
    batch = run.train.batch
    accumulates = [run.train.accumulate]
    while batch % (2 * accumulates[-1]) == 0:
        accumulates.append(2 * accumulates[-1])
    formats = [run.quantize]
    # Trained matrices are not quantized.
    if run.quantize == "none" and run.method != "full":
        formats.append("nf4")
    kinds = []
    for quantize in formats:
        kinds.append([Change(count, "block", quantize) for count in accumulates])
    return kinds


def estimate(step: Step, change: Change) -> int:
    """Return about how many bytes a step takes on one device with these settings."""
    stored = remat.stored_bytes(step.trainable, step.frozen)
    if change.quantize != step.run.quantize:
        for leaf in tree.find(step.frozen, quant.BODY).values():
            if not quant.is_quantized(leaf):
                present = devices.nbytes(leaf)
                # It would be cut over as many devices.
                share = present / tree.nbytes(leaf)
                stored += round(share * leaf.size * NF4_BYTES) - present
    config: Any = replace(step.run.train, remat=change.remat)
    rows = max(1, step.rows // change.accumulate)
    return stored + remat.estimate(
        config, step.trainable, step.frozen, rows=rows, length=step.length
    )


def _size(size: int) -> str:
    if size < 1e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:,.1f} GB"
