"""The page on where to merge an adapter whose base is quantized.

A row has the base's format as `quantize`, and as `into` the place that its adapter is
merged into.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lora_jax.results import plots
from lora_jax.results.summary import (
    Column,
    Group,
    in_order,
    metric_table,
    primary_metric,
    with_names,
)
from lora_jax.results.tables import table as table_text

EXACT = "dequantized"
# As `methods.merge` names the places, then in words.
PLACES = {
    EXACT: "into dequantized weights",
    "original": "into original weights",
    "requantized": "quantized again",
}
AXES = ("quantize", "into")
# What names a line, on this page and on that of somebody else's rows.
LINE = ("data", "model", "settings", *AXES)
# Decimals of the page's columns.
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


def merge_table(group: Group, formats: Sequence[str]) -> pd.DataFrame:
    """Return a line for each format and place, in these orders: means over seeds.

    Distances and the share of ΔW that is kept are relative, scores are in %, and
    `largest` is in units of the logits.
    """
    metric = primary_metric(group.first)
    # Of the same adapter, before it was merged.
    unmerged = f"unmerged/{metric.partition('/')[2]}"
    columns = [
        Column("matrices/distance", "distance"),
        Column("matrices/kept", "ΔW kept"),
        Column("logits/distance", "logits", has_error=True),
        Column("logits/largest", "largest"),
        Column("logits/same_class", "same class, %", 100),
        Column(unmerged, "unmerged, %", 100),
        Column(metric, "merged, %", 100),
        Column("size/bits", "bits"),
    ]
    table = _ordered(metric_table(group, AXES, columns), formats)
    return with_names(table, group)


def merge_text(table: pd.DataFrame) -> str:
    """Return the table of the page; what stands in its heading or figure is left out."""
    columns = table.drop(columns=["logits error", "data", "model", "settings"])
    return table_text(columns, digits=DIGITS)


def advice(table: pd.DataFrame) -> str:
    """Name the place where the logits move least, in the mean over formats."""
    # Of the places, "dequantized" is exact but for what float32 rounds.
    movement = table.groupby("into")["logits"].mean()
    place = PLACES[str(movement.idxmin())]
    return (
        f"**Merge {place}** where the function is to be kept: the logits move least. "
        "The matrices then take the bits of floating-point weights."
    )


def layer_table(group: Group, formats: Sequence[str]) -> pd.DataFrame:
    """Return a line for each format, place and matrix, and a column for each layer.

    A cell has the distance and the share of ΔW that is kept, both means over seeds.
    """
    # The distance and the share of each line: [2, L] for each seed.
    errors: dict[tuple, list] = {}
    for row in group.rows:
        config = row["config"]
        # Nothing to see: its distance is 0 throughout.
        if config["into"] == EXACT:
            continue
        for path, by_name in row["layers"].items():
            matrix = path.removeprefix("blocks/")
            line = (config["quantize"], config["into"], matrix)
            errors.setdefault(line, []).append([by_name["distance"], by_name["kept"]])
    lines = []
    for (quantize, place, matrix), seeds in errors.items():
        line = {"quantize": quantize, "into": place, "matrix": matrix}
        lines.append(line | _cells(seeds))
    # Where only the exact place has rows.
    if not lines:
        return pd.DataFrame()
    return _ordered(pd.DataFrame(lines), formats, then=("matrix",))


def logits_figure(table: pd.DataFrame) -> plots.Figure:
    """Draw how far each way to merge moves the logits, as bars for each format."""
    series = plots.by_label(
        table, "into", x="quantize", y="logits", error="logits error"
    )
    return plots.bars_with_errors(
        series,
        title=plots.title_of(table),
        xlabel="format of the base",
        ylabel="logits, ‖after - before‖ / ‖before - mean‖",
    )


def _cells(errors: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """A cell for each layer, from errors by seed: [seeds, 2, L]."""
    distances, shares = np.mean(errors, axis=0)
    cells = {}
    # Layers count from 1, as in the papers.
    for layer, distance in enumerate(distances, start=1):
        kept = shares[layer - 1]
        cells[f"layer {layer}"] = f"{distance:.2f}, {kept:.2f}"
    return cells


def _ordered(
    table: pd.DataFrame, formats: Sequence[str], then: Sequence[str] = ()
) -> pd.DataFrame:
    """The lines by format, then by place, then by more columns."""
    # Sorting is stable: the last one counts first.
    table = in_order(table, "into", list(PLACES), then)
    return in_order(table, "quantize", formats)
