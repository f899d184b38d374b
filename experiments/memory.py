"""LoRA section 4.2: where do the bytes of a training step go, for every method?

Each part of a training step is predicted by a formula, and their sum is held against
what XLA says of the compiled step, on encoders that the library has (Hu et al. 2021,
arXiv 2106.09685v2, abstract and section 4.2). Shapes suffice: no weights are fetched or
loaded, and no step is run.

    python experiments/memory.py                       # compiles 36 steps in 2 minutes
    python experiments/memory.py --preset full         # more ranks, longer rows
    python experiments/memory.py --models DIR --batch 16 --lengths 128 --out mine
"""

import lora_jax.interrupts  # noqa: F401
import time
from dataclasses import dataclass
from itertools import chain, product
from typing import Literal

from lora_jax.accounting import encoder_step
from lora_jax.accounting.encoder_step import EncoderStep
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Report, Section
from lora_jax.results.pages import memory as page
from lora_jax.results.pages.needs import memory as needs

QUERY_VALUE = "query,value"  # the paper's choice
ATTENTION = "query,key,value,output"


@dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = ("minilm-l6", "roberta-base", "roberta-large")
    """Encoders: those named here, by shapes alone; or a directory, or a hub id."""
    batch: int = 32
    """Rows in a step."""
    lengths: tuple[int, ...] = (64,)
    """Tokens of each row."""
    methods: tuple[Literal["full", "bitfit", "lora"], ...] = ("full", "bitfit", "lora")
    """Adaptation methods."""
    targets: tuple[str, ...] = (QUERY_VALUE, ATTENTION, f"{ATTENTION},up,down")
    """LoRA's sets of matrices, each at the first of the ranks."""
    ranks: tuple[int, ...] = (8, 64)
    """LoRA's ranks, each on the first set of matrices."""
    computes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Dtypes of matrix products."""


SMOKE = Options(
    models=("tiny",),  # a random one
    batch=4,
    lengths=(16,),  # tokens
    methods=("full", "lora"),
    targets=(QUERY_VALUE,),
    ranks=(2,),
    computes=("float32",),
)
PRESETS = {
    "smoke": (SMOKE, None),  # nothing is trained: there is no run
    "quick": (Options(), None),
    "full": (Options(lengths=(64, 128, 256), ranks=(8, 1, 64)), None),
}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    steps = []
    shapes = product(options.models, options.lengths, options.computes)
    for model, length, compute in shapes:
        for adaptation in adaptations(options):
            step = EncoderStep(model, *adaptation, compute, options.batch, length)
            steps.append(step)
    encoder_step.check(steps)
    return [Measurement((), step._asdict(), measure) for step in steps]


def adaptations(options: Options) -> list[tuple[str, str, int]]:
    """Methods with targets and rank."""
    if not options.targets or not options.ranks:
        raise ValueError("targets, ranks: expected at least one value of each")
    pairs = [(targets, options.ranks[0]) for targets in options.targets]
    pairs += [(options.targets[0], rank) for rank in options.ranks[1:]]
    result = []
    for method in options.methods:
        # Methods other than LoRA have neither.
        choices = pairs if method == "lora" else [("", 0)]
        result += [(method, *choice) for choice in choices]
    return result


def measure(_trained, settings):
    for setting in settings:
        start = time.monotonic()
        metrics = encoder_step.memory(EncoderStep(**setting))  # bytes
        # Most of the time is XLA's, which compiles the step.
        seconds = time.monotonic() - start
        yield {"metrics": metrics, "seconds": round(seconds, 3)}


def show(rows: list) -> Report:
    by_shape = page.by_shape(rows)
    sections = [Section("The columns", [page.COLUMNS])]
    for title, part in by_shape.items():
        table = page.step_table(part)
        sections.append(Section(title, [page.step_text(table), page.agreement(table)]))
    sections.append(Section("What XLA does that the layers do not ask for", [page.XLA]))
    return Report(
        title="Memory of a training step",
        intro=__doc__,
        sections=sections,
        data=page.step_table(chain(*by_shape.values())),
        **page.pictures_of(by_shape, encoder_step.fullest_parts),
        comparison=page.COMPARISON,
    )


EXPERIMENT = Experiment("memory", PRESETS, measurements, show, __doc__, needs=needs)

if __name__ == "__main__":
    EXPERIMENT.script()
