"""Does a training step fit a machine, and how fast is it at best?

The step that training runs is compiled for GPUs and TPUs that need not be there, of
shapes alone: XLA says what memory it takes, and the floor of its time follows from the
device's published peak and bandwidth. Without `--models` these are the steps of QLoRA's
Figure 6 and "65B on a single 48 GB GPU" (Dettmers et al. 2023, arXiv 2305.14314v1), of
LoRA's "1.2 TB to 350 GB" for GPT-3 (Hu et al. 2021, arXiv 2106.09685v2, section 4.2),
and a few of ours, half a minute each. A compiler that is not installed is named.

    python experiments/fit.py        # all of it needs pip install -e '.[cuda,tpu]'
    python experiments/fit.py --models llama-8b --quantize nf4 --machines h100 v5e-1
"""

import lora_jax.interrupts  # noqa: F401
import time
from dataclasses import dataclass
from typing import Literal

from lora_jax.accounting import compile_apart, fitted_step, machines, paper_steps
from lora_jax.accounting.fitted_step import FittedStep
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Report
from lora_jax.results.pages import fit as page
from lora_jax.results.pages.fit_needs import needs


@dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = ()
    """Models as shapes: llama-7b and so on, or a config.json. Without any, the steps of
    the papers; of the other flags only --machines counts then."""
    machines: tuple[str, ...] = ()
    """h100, h100x8, h100x16, a100, v5e-1, v5e-4, v5e-16, v5p-64, or cpu: this machine.
    Without any, cpu; of the papers' steps all."""
    method: str = "lora"
    """Adaptation method."""
    targets: str = paper_steps.ALL_MATRICES
    """LoRA's matrices."""
    rank: int = 64
    """LoRA's rank."""
    quantize: tuple[str, ...] = ("none",)
    """Formats of the base: none, nf4, nf4_double, int8, and so on."""
    adapter_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of adapters and of their gradients."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """What the base is stored in where it is not quantized."""
    compute: Literal["auto", "bfloat16_activations", "bfloat16", "float32"] = "auto"
    """Dtype of matrix products, and of what is between them; auto is the fastest."""
    batch: int = 1
    """Rows in a step, over all devices."""
    length: int = 512
    """Tokens of each row."""
    remat: tuple[Literal["none", "block", "products"], ...] = ("block",)
    """What the backward pass computes anew."""
    mesh: str = paper_steps.AUTO
    """Devices along data and model, as data=4,model=2. auto has all along data."""
    shard_base: bool = True
    """Cut the base over data too, not over model alone."""


SMOKE = Options(
    models=("tiny-llama",),  # a random one
    targets="query,value",
    rank=2,
    quantize=("none", "nf4_double"),
    length=16,
)
# Nothing is trained: there is no run.
PRESETS = {"smoke": (SMOKE, None), "quick": (Options(), None)}
PRESETS["full"] = PRESETS["quick"]  # the papers have no more
# Settings that are the same for all steps of a grid.
SHAPE = ("dtype", "compute", "batch", "length")
SHARED = ("method", "targets", "rank", "adapter_dtype", *SHAPE)


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    steps = chosen_steps(options)
    fitted_step.check(steps)
    missing = machines.missing_compilers(step.machine for step in steps)
    # Somebody who names a machine wants to know of it; the papers' steps have others.
    if missing and options.machines:
        raise ValueError("; ".join(missing))
    # Everything else is compiled all the same.
    for sentence in missing:
        print(f"left out: {sentence}", flush=True)
    steps = [step for step in steps if not machines.missing_compilers([step.machine])]
    return [Measurement((), step._asdict(), measure) for step in steps]


def chosen_steps(options: Options) -> list[FittedStep]:
    """The papers' steps, or those of the flags."""
    names = options.machines
    if not options.models:
        return paper_steps.steps_on(names)
    axes = {
        "model": options.models,
        "quantize": options.quantize,
        "recompute": options.remat,
        "machine": names or ("cpu",),
    }
    shared = {name: getattr(options, name) for name in SHARED}
    mesh, shard_base = options.mesh, options.shard_base
    return paper_steps.crossed_steps(shared, axes, mesh=mesh, shard_base=shard_base)


def measure(_trained, settings):
    for setting in settings:
        start = time.monotonic()
        row = compile_apart.cost(FittedStep(**setting))
        yield {**row, "seconds": round(time.monotonic() - start, 3)}


def show(rows: list) -> Report:
    return page.report(rows, intro=__doc__)


EXPERIMENT = Experiment("fit", PRESETS, measurements, show, __doc__, needs=needs)

if __name__ == "__main__":
    EXPERIMENT.script()
