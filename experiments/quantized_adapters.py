"""LoRA's own matrices in 4 or 8 bits, for shipping: what does the file save, and cost?

QLoRA stores the base in 4 bits; the adapter trained on it is float32. Here A and B are
rounded too when they are written (blocks of 64 run along their long axes, a block of
int8 is a row), and are floats again once read; they are not trained any further. QLoRA
(Dettmers et al. 2023, arXiv 2305.14314, equation 5) has A and B in 16 bits and no number
for fewer: **there is no published number for this**.

The file is counted with head, row and header; idle adapters, which only share a compiled
program, are left out of it, and a rank that is no multiple of 8 is filled up to one. The
bits are those for each number of A and B. "ΔW" is ‖ΔW - ΔW'‖ / ‖ΔW‖ over all adapted
matrices, "logits" ‖after - before‖ / ‖before - mean‖, "Δ" the change of the score from
the same adapter's in float32. All is computed in float32; means over seeds ± their
standard error.

    python experiments/quantized_adapters.py       # takes the adapters of quantization.py
    python experiments/quantized_adapters.py --quantize none --rank 64 --formats nf4
    python experiments/quantized_adapters.py --preset full              # all rows
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lora_jax import analysis, methods, metrics, quant, results, tree
from lora_jax.checkpoints import adapter
from lora_jax.experiment import (
    Experiment,
    Measurement,
    RunConfig,
    check,
    grid,
    presets,
)
from lora_jax.experiment.run import prefixed
from lora_jax.results import Column, Comparison, Report, Section, plots, report

FLOAT = "none"  # leaves A and B as they are


@dataclass(frozen=True)
class Options:
    formats: tuple[str, ...] = ("int8", "int4", "fp4", "nf4", "nf4_double")
    """Formats of A and B, beside float32. That of the base is --quantize."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


PRESETS = {
    "smoke": (
        Options(seeds=(0,)),
        presets.SMOKE.changed(quantize="nf4_double", rank=2),
    ),
    "quick": (Options(), presets.QUICK.changed(quantize="nf4_double")),
    "full": (Options(), presets.FULL.changed(quantize="nf4_double")),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    check.formats(options.formats)
    items = []
    for run in grid(base, seed=options.seeds):
        for stored in dict.fromkeys([FLOAT, *options.formats]):
            items.append(Measurement((run,), {"stored": stored}, measure))
    return items


def measure(trained, settings):
    model, row, bench = trained[0]
    split = bench.test_split
    labels = bench.encoded[split].label
    before = bench.predict(model, split, compute="float32")
    unrounded = metrics.score(bench.task.metrics, before, labels)
    for setting in settings:
        file, rounded = shipped(model, row, bench, setting["stored"])
        after = bench.predict(rounded, split, compute="float32")
        scores = metrics.score(bench.task.metrics, after, labels)
        change = {name: scores[name] - unrounded[name] for name in scores}
        yield {
            "metrics": {
                **prefixed(split, scores),
                **prefixed("change", change),
                "size/file": len(file),
                "size/bits": analysis.adapter_file_bits(file, model),
                "delta/error": analysis.adapter_error(model, rounded),
                "logits/distance": analysis.prediction_distance(before, after),
            },
            "examples": {split: len(labels)},
        }


def shipped(model, row, bench, stored: str) -> tuple:
    """The file with A and B in that format, and the model read back from it."""
    mask = methods.mask(model, bench.method())
    idle = {}
    for path, layer in methods.adapters(model).items():
        if not layer.parameters():
            idle |= {f"{path}/lora_a": False, f"{path}/lora_b": False}
    mask = tree.replace(mask, idle)
    quantize = None if stored == FLOAT else stored
    file = adapter.dump(model, mask, row, quantize=quantize)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        path.write_bytes(file)
        return file, adapter.load(path, model, mask)[0]


def show(rows: list) -> Report:
    sections = []
    tables = []
    for group in results.groups(rows, axes=("stored", "seed")):
        table = storage_table(group)
        tables.append(table)
        blocks = [
            *report.warning(group),
            text_table(table),
            advice(table),
            report.settings(group),
        ]
        sections.append(Section(group.name, blocks))
    return Report(
        title="Adapters in few bits",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        figures=figure(tables[0]),
        comparison=Comparison(by=("stored",), error="score error"),
    )


def storage_table(group: results.Group) -> pd.DataFrame:
    """A line for each format, the largest file first."""
    metric = results.primary_metric(group.first)
    change = f"change/{metric.partition('/')[2]}"
    columns = [
        Column("size/file", "file", 1e-3, has_error=True),
        Column("size/bits", "bits", has_error=True),
        Column("delta/error", "ΔW", 100, has_error=True),
        Column("logits/distance", "logits", 100, has_error=True),
        Column(metric, "score", 100, has_error=True),
        Column(change, "Δ", 100, has_error=True),
    ]
    table = results.metric_table(group, ["stored"], columns)
    table = results.in_order(table, "stored", [FLOAT, *quant.FORMATS])
    table = table.sort_values("bits", ascending=False, kind="stable")
    return table.reset_index(drop=True).replace({"stored": {FLOAT: "float32"}})


def text_table(table: pd.DataFrame) -> str:
    text = table[["stored", "file", "bits"]].rename(
        columns={"stored": "A and B", "file": "file, kB"}
    )
    text.insert(2, "of float32, %", 100 * table["file"] / table["file"].iloc[0])
    for name, digits, sign in (
        ("ΔW", 2, ""),
        ("logits", 2, ""),
        ("score", 1, ""),
        ("Δ", 2, "+"),
    ):
        errors = table[f"{name} error"]
        text[f"{name}, %"] = results.plus_minus(table[name], errors, digits, sign)
    digits = {"file, kB": 1, "of float32, %": 1, "bits": 3}
    return results.table(text, digits=digits)


def advice(table: pd.DataFrame) -> str:
    """The smallest file that scores no worse than float32, by its standard error."""
    base = table.iloc[0]
    if np.isnan(base["score error"]):
        return "One seed of this metric has no standard error to choose a format by."
    within = (
        f"within a standard error of float32's {base['score']:.1f} ± "
        f"{base['score error']:.1f} %"
    )
    as_good = table[table["score"] >= base["score"] - base["score error"]]
    best = as_good.loc[as_good["file"].idxmin()]
    if best["stored"] == base["stored"]:
        return f"**No smaller file scores {within}.**"
    return (
        f"**The smallest file that scores {within} has A and B in {best['stored']}**: "
        f"{best['file']:.1f} instead of {base['file']:.1f} kB, {best['score']:.1f} %."
    )


def figure(table: pd.DataFrame) -> dict:
    """Both errors of each format, with its file and score beneath."""
    base = table.iloc[0]
    rounded = table.iloc[1:]
    if rounded.empty:
        return {}
    names = []
    for _, line in rounded.iterrows():
        size = f"{line['file']:.1f} kB"
        names.append(f"{line['stored']}\n{size}\n{line['score']:.1f} %")
    series = {}
    for label, name in (("of ΔW", "ΔW"), ("of the logits", "logits")):
        series[label] = (names, rounded[name], rounded[f"{name} error"])
    drawn = plots.bars_with_errors(
        series,
        title=f"Rounding A and B (float32: {base['file']:.1f} kB, "
        f"{base['score']:.1f} %)",
        xlabel="format of A and B, file, score",
        ylabel="relative error, %",
    )
    return {"": drawn}


EXPERIMENT = Experiment(
    "quantized_adapters",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,
    hidden=("method",),
)

if __name__ == "__main__":
    EXPERIMENT.script()
