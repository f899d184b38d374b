"""LoRA sections 1, 4.2 and 5.5: what does LoRA save of a training step?

A training step of full fine-tuning and one of LoRA, on the same model and batch, are
timed in turn. Their memory is what XLA says that the compiled step needs: arguments,
results and temporaries. The checkpoint is what has to be stored for a task, the head
included. With `--peer peft` the same steps are timed in torch + peft, in the same
sitting; torch does not say what memory a step needs on CPU.

Hu et al. 2021 (arXiv 2106.09685v2) save 25 % of the time, two thirds of the memory and
all but a 10,000th of the checkpoint of GPT-3 175B on V100s: **a trend, not a comparison
of values**. On a small model and a CPU only the kind of saving compares.

    python experiments/throughput.py
    python experiments/throughput.py --peer peft      # needs pip install -e '.[peers]'
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass
from itertools import product
from typing import Literal

import pandas as pd

from lora_jax import results
from lora_jax.accounting.named_step import named_step
from lora_jax.accounting.step_time import step_metrics, time_in_turn
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Report, Section
from lora_jax.results.grouping import short_name
from lora_jax.results.pages import throughput as page
from lora_jax.results.pages.needs import throughput as needs


@dataclass(frozen=True)
class Options:
    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, a directory, or a hub id."""
    batch: int = 32
    """Rows in a step."""
    length: int = 64
    """Tokens of each row, none of them padding."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 8
    """LoRA's rank."""
    computes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Dtypes of matrix products."""
    steps: int = 10
    """Timed steps of each kind, after two warm-up steps; the median counts."""
    peer: Literal["none", "peft"] = "none"
    """Time the same steps in torch + peft too."""


SMOKE = Options(model="tiny", batch=4, length=16, rank=2, steps=3)
PRESETS = {
    "smoke": (SMOKE, None),  # nothing is trained: there is no run
    "quick": (Options(), None),
    "full": (Options(steps=30), None),
}
SHAPE = ("model", "batch", "length", "targets", "rank")  # the same for all steps


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    shared = {name: getattr(options, name) for name in (*SHAPE, "steps")}
    # The peer's packages are an extra of their own.
    frameworks = [page.OURS]
    if options.peer != "none":
        frameworks.append(options.peer)
    items = []
    for kind in product(frameworks, options.computes, page.METHODS):
        settings = shared | dict(zip(page.AXES, kind, strict=True))
        items.append(Measurement((), settings, measure))
    return items


def measure(_trained, settings):
    """Time all steps in turn, so that a machine that slows down favors none."""
    steps = [named_step(setting) for setting in settings]
    # The number of times is one of the shared settings.
    times = time_in_turn(steps, settings[0]["steps"])
    for setting, step, seconds in zip(settings, steps, times, strict=True):
        tokens = setting["batch"] * setting["length"]  # none of them padding
        metrics = step_metrics(step, seconds, tokens)
        yield {"metrics": metrics, "seconds": seconds}


def show(rows: list) -> Report:
    sections, tables, claims = [], [], []
    # Steps that were timed in turn are alike but for the axes.
    for group in results.groups(rows, page.AXES):
        table = page.step_table(group)
        saved = page.savings(table)
        blocks = [
            page.timed_on(group),
            page.step_text(table),
            page.SAVINGS_TEXT,
            saved,
            page.against_peer(table),
        ]
        named = {**group.settings, "model": short_name(group.settings["model"])}
        title = ", ".join(f"{name} {named[name]}" for name in SHAPE)
        sections.append(Section(title, blocks))
        tables.append(table)  # with the model, which the heading has
        claims += page.saving_claims(saved)
    return Report(
        title="Throughput and memory of a training step",
        intro=__doc__,
        sections=sections,
        claims=claims,
        data=pd.concat(tables),
        comparison=page.COMPARISON,
    )


EXPERIMENT = Experiment("throughput", PRESETS, measurements, show, __doc__, needs=needs)

if __name__ == "__main__":
    EXPERIMENT.script()
