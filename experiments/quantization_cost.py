"""QLoRA Figure 3 in kind: what does a format of the base cost in bytes, error and time?

The table has, for each format, how far the stored matrices are from the pretrained
ones (‖W - W'‖ / ‖W‖ over all matrices of the blocks); the bits stored for each of their
numbers, scales included; the bytes of the entire model on disk (a safetensors file) and
in memory; and the median time and the peak memory of a LoRA training step. Products are
taken in bfloat16 where the machine has it, those of fp32 in float32. QLoRA (Dettmers et
al. 2023, arXiv 2305.14314v1) has no such table: **there is no published number for
this**. What the formats cost in score is in `quantization.py`.

    python experiments/quantization_cost.py                       # a minute
    python experiments/quantization_cost.py --model DIRECTORY --formats bf16 nf4_double
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import pandas as pd

from lora_jax import methods, models, results
from lora_jax.accounting.storage import FORMATS, storage_metrics
from lora_jax.accounting.stored_step import step_costs
from lora_jax.experiment import Experiment, Measurement, check
from lora_jax.results import Comparison, Report, Section
from lora_jax.results.grouping import short_name
from lora_jax.results.pages import quantization_cost as page
from lora_jax.results.pages.format_names import format_name, row_name
from lora_jax.results.pages.needs import quantization_cost as needs

# The options that a timed step depends on.
SHAPE = ("batch", "length", "targets", "rank", "steps")


@dataclass(frozen=True)
class Options:
    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, a directory, or a hub id."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """Formats of the base."""
    blocks: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096)
    """Block sizes that the 4-bit formats are measured with, beside their own."""
    targets: str = "query,value"
    """LoRA's matrices in the timed step."""
    rank: int = 8
    """LoRA's rank in the timed step."""
    batch: int = 32
    """Rows of the timed step."""
    length: int = 64
    """Tokens of each of these rows."""
    steps: int = 20
    """Timed steps of each format, interleaved; the median counts."""


# The extremes: float32, and the fewest bits.
SMOKE = Options(
    "tiny", ("fp32", "nf4_double"), blocks=(32,), rank=2, batch=8, length=16, steps=2
)
QUICK = Options()  # measures everything: the full preset has nothing to add
PRESETS = {"smoke": (SMOKE, None), "quick": (QUICK, None), "full": (QUICK, None)}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    check.raise_all(  # before a model is loaded
        *check.name_problems("formats", options.formats, FORMATS),
        *check.block_problems(options.blocks),
        *check.count_problems(options, ("batch", "length", "steps")),
    )
    model = {"model": options.model, "model_source": models.source(options.model)}
    shape = {name: getattr(options, name) for name in SHAPE}
    sizes, steps = [], []
    for name in dict.fromkeys(options.formats):  # each once
        settings = {**model, "part": page.SIZES, "type": row_name(name)}
        other_blocks = options.blocks if FORMATS[name].has_four_bits else ()
        # None is the format's own block size.
        for block in (None, *other_blocks):
            sizes.append(Measurement((), {**settings, "block": block}, measure_sizes))
        settings = {**model, **shape, "part": page.STEP, "type": row_name(name)}
        steps.append(Measurement((), settings, measure_steps))
    return sizes + steps


def measure_sizes(_trained, settings):
    model = models.load(settings[0]["model"])[0]
    for setting in settings:
        storage = FORMATS[format_name(setting["type"])]
        yield {"metrics": storage_metrics(model, storage, setting["block"])}


def measure_steps(_trained, settings):
    first = settings[0]  # they differ in the format alone
    model = models.load(first["model"])[0]
    method = methods.lora(first["targets"], first["rank"])
    storages = [FORMATS[format_name(setting["type"])] for setting in settings]
    shape = {"batch": first["batch"], "length": first["length"]}
    for cost in step_costs(model, method, storages, times=first["steps"], **shape):
        yield cost._asdict()


def show(rows: list) -> Report:
    sections, tables = [], []
    for (model,), part in results.split_by(rows, ["model"]).items():
        table = page.format_table(part, tuple(FORMATS))
        sections.append(Section(short_name(model), page.blocks(part, table)))
        tables.append(table.assign(model=model))
    return Report(
        title="What a format of the base costs",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        comparison=Comparison(by=("model", "type"), value="bits", error=""),
    )


EXPERIMENT = Experiment(
    "quantization_cost", PRESETS, measurements, show, __doc__, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
