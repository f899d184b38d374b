"""What do a GPU's own compiler, memory and clock say of the library?

Training steps of LoRA on Llamas of 1.2 and 8 billion parameters, in bfloat16 and NF4,
and on two encoders: predicted for an H100, and timed where there is a GPU, beside the
same steps in torch + peft. LoRA's Table 6 (Hu et al. 2021, arXiv 2106.09685v2), 15 cells
and five seeds, trained as one population, and the tests of what is computed, on the
device. All weights of steps are random. After `--minutes` what remains is named and left
out; the same command continues. No paper publishes these numbers.

    python experiments/accelerator.py                     # without a GPU: predictions
    python experiments/accelerator.py --only steps peers  # on a GPU, in this order
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass
from typing import Literal

from lora_jax.accounting import fitted_step
from lora_jax.accounting.accelerator_steps import TINY, accelerator_steps
from lora_jax.accounting.device_tests import GROUPS
from lora_jax.accounting.measure_apart import in_minutes, leave_memory
from lora_jax.experiment import Experiment, Measurement, check, presets
from lora_jax.experiment.accelerator_parts import (
    Sitting,
    part_measurements,
    possible_parts,
)
from lora_jax.experiment.timed_population import population_settings
from lora_jax.results import Report
from lora_jax.results.pages import accelerator as page
from lora_jax.results.pages.accelerator_needs import needs

TARGETS = ("query", "query,value", "query,key,value,output")  # of Table 6


@dataclass(frozen=True)
class Options:
    only: tuple[str, ...] = ()
    """Parts, in the order they are to be measured in: predictions, steps, population,
    tests, peers. Without any, all that this machine can."""
    minutes: float = 6.0
    """Minutes after which nothing more is begun, and what is measured is stopped."""
    machine: str = "h100"
    """The machine that steps are predicted for, see fit.py. Its memory decides what the
    backward pass computes anew, here as well."""
    models: tuple[str, ...] = ("llama-1.2b", "llama-8b", "bert-base", "minilm-l6")
    """Models of the steps."""
    times: int = 5
    """Timed steps of each kind, after two warm-up steps; the median counts."""
    sweep: Literal["quick", "smoke"] = "quick"
    """Preset of the rank sweep that is trained as a population."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 64)
    """Ranks of the sweep."""
    seeds: int = 5
    """How many seeds the sweep has, from 0."""
    groups: tuple[str, ...] = tuple(GROUPS)[:-1]
    """Groups of tests that are run on the device."""
    cpu: bool = False
    """Measure on a processor too, which takes as long as it takes."""
    apart: bool = True
    """Measure each step in a process of its own: a device counts a process's memory."""


SMOKE = Options(
    machine="cpu",
    models=(TINY,),  # a random one
    times=2,
    sweep="smoke",
    ranks=(1, 2),
    seeds=1,
    groups=tuple(GROUPS)[-1:],  # the one that takes no time
    cpu=True,
    apart=False,
)
# Nothing is kept of what is trained: to the experiment there is no run.
PRESETS = {"smoke": (SMOKE, None), "quick": (Options(), None)}
PRESETS["full"] = PRESETS["quick"]  # there is no more to measure

SWEEPS = {"quick": presets.QUICK, "smoke": presets.SMOKE}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    problems = check.count_problems(options, ("minutes", "times", "seeds"))
    problems += check.name_problems("groups", options.groups, GROUPS)
    check.raise_all(*problems)
    # Shapes alone: no weight is drawn before all is known to be right.
    steps = accelerator_steps(options.models, options.machine)
    fitted_step.check(steps)
    base = SWEEPS[options.sweep]
    # The clock begins here.
    return part_measurements(
        Sitting(in_minutes(options.minutes), options.apart),
        possible_parts(options.only, options.machine, cpu=options.cpu),
        steps,
        times=options.times,
        population=population_settings(base, TARGETS, options.ranks, options.seeds),
        groups=options.groups,
    )


def show(rows: list) -> Report:
    return page.report(rows, intro=__doc__)


EXPERIMENT = Experiment(
    "accelerator", PRESETS, measurements, show, __doc__, needs=needs
)

if __name__ == "__main__":
    # Before jax counts its devices: those that are started from here need the memory.
    leave_memory()
    EXPERIMENT.script()
