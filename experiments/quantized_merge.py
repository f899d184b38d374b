"""Where should an adapter be merged when its base is quantized?

An adapter was trained beside the 4-bit weights W4, and makes up for their errors as
well. `methods.merge` can fold it into the dequantized W4; into the original W, which it
has not seen; or into W4 and quantize the sum again, which rounds small updates away.
QLoRA (Dettmers et al. 2023, arXiv 2305.14314) does not say how its adapters were merged:
**there is no published number for this**.

The distance is that of the merged matrix from W4 + ΔW, over ‖ΔW‖. "ΔW kept" is what the
matrix has changed along ΔW, over ‖ΔW‖. Both are means over adapted matrices and layers.
The logits are ‖after - before‖ / ‖before - mean‖; "same class" is the share of examples
whose prediction stays. The bits are those of the blocks' matrices once merged; matrices
without an adapter stay quantized, but for the original weights. All is computed in
float32, so that nothing else rounds.

    python experiments/quantized_merge.py          # takes the adapters of quantization.py
    python experiments/quantized_merge.py --formats nf4 --rank 64 --seeds 0
    python experiments/quantized_merge.py --preset full                    # all rows
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_jax import analysis, methods, metrics, models, quant, results
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

PLACES = {  # as `methods.merge` names them: in words
    "dequantized": "into dequantized weights",
    "original": "into original weights",
    "requantized": "quantized again",
}
AXES = ("quantize", "into")


@dataclass(frozen=True)
class Options:
    formats: tuple[str, ...] = ("nf4", "nf4_double", "fp4", "int4", "int8")
    """Formats of the base."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


PRESETS = {
    "smoke": (Options(formats=("nf4",), seeds=(0,)), presets.SMOKE.changed(rank=2)),
    "quick": (Options(), presets.QUICK),
    "full": (Options(), presets.FULL),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    check.formats(options.formats)
    items = []
    for run in grid(base, quantize=options.formats, seed=options.seeds):
        for place in PLACES:
            items.append(Measurement((run,), {"into": place}, measure))
    return items


def measure(trained, settings):
    model, _, bench = trained[0]
    split = bench.test_split
    labels = bench.encoded[split].label
    before = bench.predict(model, split, compute="float32")
    unmerged = metrics.score(bench.task.metrics, before, labels)
    for setting in settings:
        place = setting["into"]
        original = original_model(bench) if place == "original" else None
        merged = methods.merge(model, into=place, original=original)
        after = bench.predict(merged, split, compute="float32")
        layers = analysis.merge_errors(model, merged)
        scores = metrics.score(bench.task.metrics, after, labels)
        yield {
            "metrics": {
                **prefixed(split, scores),
                **prefixed("unmerged", unmerged),
                **prefixed("matrices", mean_errors(layers)),
                **analysis.prediction_change(before, after),
                "size/bits": analysis.stored_bits(merged),
            },
            "layers": layers,
            "examples": {split: len(labels)},
        }


def original_model(bench):
    """The pretrained model before it was quantized."""
    return models.load(bench.run.model, labels=len(bench.task.labels) or 1)[0]


def mean_errors(layers: dict) -> dict[str, float]:
    """Means over matrices and layers of what `analysis.merge_errors` returns."""
    errors = list(layers.values())
    means = {}
    for name in ("distance", "kept"):
        means[name] = float(np.mean([error[name] for error in errors]))
    return means


def show(rows: list) -> Report:
    sections = []
    tables = []
    for group in results.groups(rows, axes=(*AXES, "seed")):
        table = merge_table(group)
        tables.append(table)
        blocks = [
            *report.warning(group),
            results.table(table.drop(columns="logits error"), digits=DIGITS),
            advice(table),
            "By layer: the distance, and ΔW kept, means over seeds.",
            table_by_layer(group),
            report.settings(group),
        ]
        sections.append(Section(group.name, blocks))
    return Report(
        title="Merging an adapter into a quantized base",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        figures={"": figure(tables[0])},
        comparison=Comparison(by=AXES, value="merged, %", error="", tolerance=2.0),
    )


DIGITS = {
    "distance": 3,
    "ΔW kept": 3,
    "logits": 4,
    "largest": 4,
    "same class, %": 1,
    "unmerged, %": 1,
    "merged, %": 1,
    "bits": 2,
}


def merge_table(group: results.Group) -> pd.DataFrame:
    metric = results.primary_metric(group.first)
    name = metric.partition("/")[2]
    columns = [
        Column("matrices/distance", "distance"),
        Column("matrices/kept", "ΔW kept"),
        Column("logits/distance", "logits", has_error=True),
        Column("logits/largest", "largest"),
        Column("logits/same_class", "same class, %", 100),
        Column(f"unmerged/{name}", "unmerged, %", 100),
        Column(metric, "merged, %", 100),
        Column("size/bits", "bits"),
    ]
    table = results.metric_table(group, AXES, columns)
    table = results.in_order(table, "into", list(PLACES))
    return results.in_order(table, "quantize", list(quant.FORMATS))


def advice(table: pd.DataFrame) -> str:
    movement = table.groupby("into")["logits"].mean()
    return (
        f"**Merge {PLACES[str(movement.idxmin())]}** where the function is to be kept: the "
        "logits move least. The matrices then take the bits of floating-point weights."
    )


def table_by_layer(group: results.Group) -> pd.DataFrame:
    """A line for each format, place and matrix; a column for each layer."""
    errors: dict[tuple, list] = {}
    for row in group.rows:
        config = row["config"]
        if config["into"] == "dequantized":
            continue  # exact: the distance is 0 throughout
        for path, layer_errors in row["layers"].items():
            line = (config["quantize"], config["into"], path.removeprefix("blocks/"))
            values = [layer_errors["distance"], layer_errors["kept"]]
            errors.setdefault(line, []).append(values)
    lines = []
    for (quantize, place, matrix), values in errors.items():
        line = {"quantize": quantize, "into": place, "matrix": matrix}
        distances, shares = np.mean(values, axis=0)
        for layer, pair in enumerate(zip(distances, shares, strict=True), start=1):
            line[f"layer {layer}"] = f"{pair[0]:.2f}, {pair[1]:.2f}"
        lines.append(line)
    if not lines:
        return pd.DataFrame()
    table = results.in_order(pd.DataFrame(lines), "into", list(PLACES), ("matrix",))
    return results.in_order(table, "quantize", list(quant.FORMATS))


def figure(table: pd.DataFrame) -> plots.Figure:
    """How far each way to merge moves the logits."""
    named = table.assign(place=table["into"].map(PLACES))
    series = plots.by_label(
        named, "place", x="quantize", y="logits", error="logits error"
    )
    return plots.bars_with_errors(
        series,
        title="Merging moves the logits",
        xlabel="format of the base",
        ylabel="‖after - before‖ / ‖before - mean‖",
    )


EXPERIMENT = Experiment(
    "quantized_merge",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,
    hidden=("quantize", "method"),
)

if __name__ == "__main__":
    EXPERIMENT.script()
