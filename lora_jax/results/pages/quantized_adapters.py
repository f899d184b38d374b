"""The page on adapters that are stored in few bits: what each format saves and costs.

A row has the format of A and B as `stored`, FLOAT for float32.
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
    plus_minus,
    primary_metric,
    with_names,
)
from lora_jax.results.tables import table as table_text

FLOAT = "none"  # leaves A and B as they are
# The columns in % of the page's table: decimals, and the sign of positive numbers.
PERCENTS = {"ΔW": (2, ""), "logits": (2, ""), "score": (1, ""), "Δ": (2, "+")}
# What names a line, on this page and on that of somebody else's rows.
LINE = ("data", "model", "settings", "stored")
DIGITS = {"file, kB": 1, "of float32, %": 1, "bits": 3}


def storage_table(group: Group, formats: Sequence[str]) -> pd.DataFrame:
    """Return a line for each format, the largest file first: means over seeds.

    Formats of one size stand in the order passed. `file` is in kB, `bits` are those of
    each number of A and B, and all else is in %.
    """
    metric = primary_metric(group.first)
    change = f"change/{metric.partition('/')[2]}"
    columns = [
        Column("size/file", "file", 1e-3, has_error=True),
        Column("size/bits", "bits", has_error=True),
        Column("delta/error", "ΔW", 100, has_error=True),
        Column("logits/distance", "logits", 100, has_error=True),
        Column(metric, "score", 100, has_error=True),
        Column(change, "Δ", 100, has_error=True),
    ]
    table = metric_table(group, ["stored"], columns)
    table = in_order(table, "stored", [FLOAT, *formats])
    # A stable sort keeps that order.
    table = table.sort_values("bits", ascending=False, kind="stable", ignore_index=True)
    table = table.replace({"stored": {FLOAT: "float32"}})
    return with_names(table, group)


def storage_text(table: pd.DataFrame) -> str:
    """Return the table of the page; its first line is float32."""
    titles = {"stored": "A and B", "file": "file, kB"}
    text = table[["stored", "file", "bits"]].rename(columns=titles)
    share = 100 * table["file"] / table["file"].iloc[0]
    text.insert(2, "of float32, %", share)
    for name, (digits, sign) in PERCENTS.items():
        errors = table[f"{name} error"]
        text[f"{name}, %"] = plus_minus(table[name], errors, digits, sign)
    return table_text(text, digits=DIGITS)


def advice(table: pd.DataFrame) -> str:
    """Name the smallest file that scores no worse than float32, by its standard error."""
    base = table.iloc[0]
    if np.isnan(base["score error"]):
        return "One seed of this metric has no standard error to choose a format by."
    # The base's own error: both have the same seeds.
    base_score = f"{base['score']:.1f} ± {base['score error']:.1f} %"
    within = f"within a standard error of float32's {base_score}"
    # float32 itself is always among them.
    lowest = base["score"] - base["score error"]
    as_good = table[table["score"] >= lowest]
    best = as_good.loc[as_good["file"].idxmin()]
    stored = best["stored"]
    if stored == base["stored"]:
        return f"**No smaller file scores {within}.**"
    sizes = f"{best['file']:.1f} instead of {base['file']:.1f} kB"
    return (
        f"**The smallest file that scores {within} has A and B in {stored}**: "
        f"{sizes}, {best['score']:.1f} %."
    )


def error_figures(table: pd.DataFrame) -> dict[str, plots.Figure]:
    """Draw both errors of each format, in %, with its file and score beneath.

    There is no figure of float32 alone, which has no errors.
    """
    base = table.iloc[0]
    rounded = table.iloc[1:]
    if rounded.empty:
        return {}
    # Three lines under each group of bars.
    names = []
    for _, line in rounded.iterrows():
        parts = [
            line["stored"],
            f"{line['file']:.1f} kB",
            f"{line['score']:.1f} %",
        ]
        names.append("\n".join(parts))
    size = f"{base['file']:.1f} kB"
    score = f"{base['score']:.1f} %"
    # Both are relative, so they share an axis.
    series: dict[str, Any] = {
        "ΔW": (names, rounded["ΔW"], rounded["ΔW error"]),
        "logits": (names, rounded["logits"], rounded["logits error"]),
    }
    figure = plots.bars_with_errors(
        series,
        title=f"{plots.title_of(table)} (float32: {size}, {score})",
        xlabel="format of A and B, file, score",
        ylabel="relative error, %",
    )
    return {"": figure}
