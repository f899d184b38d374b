"""QLoRA Figure 3 in kind: what does a format of the base cost in bytes, error and time?

For each format: how far the stored matrices are from the pretrained ones (‖W - W'‖ /
‖W‖ over all matrices of the blocks), the bits stored for each of their numbers, scales
included, the bytes of the entire model on disk (a safetensors file) and in memory, and
the median time and the peak memory of a LoRA training step. Products are taken in
bfloat16 where the machine has it, of fp32 in float32. Dettmers et al. 2023 (arXiv
2305.14314v1) publish no such table: **there is no published number for this**. What the
formats cost in score is in `quantization.py`.

    python experiments/quantization_cost.py                       # a minute
    python experiments/quantization_cost.py --model DIRECTORY --formats bf16 nf4_double
"""

import statistics
from dataclasses import dataclass

import pandas as pd

from lora_jax import methods, models, quant, results
from lora_jax.accounting.step_time import compile_step, time_in_turn
from lora_jax.accounting.storage import FORMATS, storage_metrics, store_base
from lora_jax.experiment import Experiment, Measurement
from lora_jax.quant import CODECS
from lora_jax.results import Comparison, Report, Section, report

SIZES, STEP = "sizes", "step"  # the parts, as rows name them


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


SMOKE = Options(
    model="tiny",
    formats=("fp32", "nf4_double"),
    blocks=(32,),
    rank=2,
    batch=8,
    length=16,
    steps=2,
)
PRESETS = {
    "smoke": (SMOKE, None),
    "quick": (Options(), None),
    "full": (Options(), None),
}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    check(options)
    model = {"model": options.model, "model_source": models.source(options.model)}
    items = []
    for name in dict.fromkeys(options.formats):
        for block in [None, *(options.blocks if has_four_bits(name) else ())]:
            settings = {**model, "part": SIZES, "type": row_name(name), "block": block}
            items.append(Measurement((), settings, measure_sizes))
    shape = {name: getattr(options, name) for name in SHAPE}
    for name in dict.fromkeys(options.formats):
        settings = {**model, **shape, "part": STEP, "type": row_name(name)}
        items.append(Measurement((), settings, measure_steps))
    return items


SHAPE = ("batch", "length", "targets", "rank", "steps")


def check(options: Options) -> None:
    """Raise one ValueError with every option that is wrong."""
    problems = []
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        names = ", ".join(unknown) or "none"
        problems.append(f"formats: expected some of {', '.join(FORMATS)}, got {names}")
    for block in options.blocks:
        if block not in quant.BLOCKS:
            problems.append(
                f"blocks: expected powers of two from 32 to 4096, got {block}"
            )
    for name in ("batch", "length", "steps"):
        if getattr(options, name) < 1:
            problems.append(f"{name}: expected 1 or more, got {getattr(options, name)}")
    if problems:
        raise ValueError("; ".join(problems))


def has_four_bits(name: str) -> bool:
    spec = quant.FORMATS.get(FORMATS[name].quantize)
    return spec is not None and CODECS[spec.codec].bits == 4


def row_name(name: str) -> str:
    """The format's name in rows, which were there before the present spelling."""
    return name.replace("_", "-")


def storage_of(setting):
    return FORMATS[setting["type"].replace("-", "_")]


def measure_sizes(_trained, settings):
    model = models.load(settings[0]["model"])[0]
    for setting in settings:
        yield {"metrics": storage_metrics(model, storage_of(setting), setting["block"])}


def measure_steps(_trained, settings):
    """Time the steps in turn, so that a machine that slows down favors none."""
    first = settings[0]
    model = models.load(first["model"])[0]
    method = methods.lora(first["targets"], first["rank"])
    steps = []
    for setting in settings:
        storage = storage_of(setting)
        step = compile_step(
            store_base(model, storage),
            method,
            batch=setting["batch"],
            length=setting["length"],
            compute_dtype=storage.compute_dtype,
        )
        steps.append(step)
    times = time_in_turn(steps, first["steps"])
    for step, seconds in zip(steps, times, strict=True):
        metrics = {
            "step/seconds": statistics.median(seconds),
            "step/peak": step.sizes["peak"],
            "step/temporary": step.sizes["temporary"],
        }
        yield {"metrics": metrics, "seconds": seconds}


def show(rows: list) -> Report:
    sections = []
    tables = []
    for model in dict.fromkeys(row["config"]["model"] for row in rows):
        model_rows = [row for row in rows if row["config"]["model"] == model]
        table = format_table(model_rows).assign(model=model)
        tables.append(table)
        text = table.drop(columns="model")
        smoke = [report.SMOKE] if model.startswith("tiny") else []
        blocks = [*smoke, results.table(text, digits=digits_of(text))]
        by_block = block_table(model_rows)
        if not by_block.empty:
            blocks += ["By block size:", results.table(by_block, digits=4)]
        sections.append(Section(model, blocks))
    return Report(
        title="What a format of the base costs",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        comparison=Comparison(by=("model", "type"), value="bits", error=""),
    )


def by_type(rows: list, part: str) -> dict[str, dict]:
    """The metrics of each format, at its own block size."""
    metrics = {}
    for row in rows:
        config = row["config"]
        if config["part"] == part and config.get("block") is None:
            metrics[config["type"].replace("-", "_")] = row["metrics"]
    return metrics


def format_table(rows: list) -> pd.DataFrame:
    sizes = by_type(rows, SIZES)
    steps = by_type(rows, STEP)
    lines = []
    for name in FORMATS:
        if name not in sizes:
            continue
        size = sizes[name]
        line = {"type": name, "bits": size["size/bits"]}
        line["weight error"] = size["error/relative"]
        line["disk, MB"] = size["size/disk"] / 1e6
        line["memory, MB"] = size["size/memory"] / 1e6
        if name in steps:
            line["step, ms"] = 1e3 * steps[name]["step/seconds"]
            line["peak, MB"] = steps[name]["step/peak"] / 1e6
        lines.append(line)
    return pd.DataFrame(lines)


def digits_of(table: pd.DataFrame) -> dict[str, int]:
    digits = {"bits": 3, "weight error": 4, "disk, MB": 1, "memory, MB": 1}
    digits |= {"step, ms": 0, "peak, MB": 0}
    return {name: places for name, places in digits.items() if name in table}


def block_table(rows: list) -> pd.DataFrame:
    """A line for each block size: bits and error of each 4-bit format."""
    lines: dict[int, dict] = {}
    for row in rows:
        block = row["config"].get("block")
        if block:
            name = row["config"]["type"].replace("-", "_")
            line = lines.setdefault(block, {"block": block})
            line[f"{name}, bits"] = row["metrics"]["size/bits"]
            line[f"{name}, error"] = row["metrics"]["error/relative"]
    return pd.DataFrame([lines[block] for block in sorted(lines)])


EXPERIMENT = Experiment(
    "quantization_cost", PRESETS, measurements, show, description=__doc__
)

if __name__ == "__main__":
    EXPERIMENT.script()
