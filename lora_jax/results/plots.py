"""Figures of scores with error bars, alone or beside what a paper reports.

The two kinds of figures are in `lines` and `bars`; this module adds those that draw
tables of scores, and offers all of them under one name. The legend lies under the
panels, where it can cover no data.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lora_jax.results.bars import bars_with_errors
from lora_jax.results.figure_style import COLORS, HATCHES, MARKERS
from lora_jax.results.grouping import short_name
from lora_jax.results.lines import curves, horizontal_line, lines_with_errors
from lora_jax.results.panels import Panel, Series

# Everything that an experiment needs for a figure of scores.
__all__ = [
    "COLORS",
    "HATCHES",
    "MARKERS",
    "Figure",
    "Panel",
    "Series",
    "bars_beside_paper",
    "bars_with_errors",
    "by_label",
    "curves",
    "horizontal_line",
    "lines_beside_paper",
    "lines_with_errors",
    "title_of",
]


def by_label(
    table: Any, label: str, *, x: str, y: str = "score", error: str = "error"
) -> Series:
    """Return a series for each value of a column, in the order of the table."""
    series = {}
    for name, part in table.groupby(label, sort=False):
        series[str(name)] = (part[x], part[y], part[error])
    return series


def title_of(table: Any) -> str:
    """Return the title of a figure of a table of scores: model, data, and what differs."""
    first = table.iloc[0]
    names = [short_name(first.get(name, "")) for name in ("model", "data")]
    title = ", ".join(filter(None, names))
    difference = first.get("settings", "")
    return f"{title} · {difference}" if difference else title


def lines_beside_paper(
    scores: Any, published: Any, *, by: str, x: str, xlabel: str
) -> Figure:
    """Draw a line for each value of `by`, and a panel for each data set of the paper.

    `scores` is a table of `results.scores`, `published` one of `lora_jax.paper`.
    """
    # The paper's panels have y axes of their own: other models, other data.
    panels = []
    for dataset, part in published.groupby("dataset", sort=False):
        series = by_label(part, by, x=x, y="value", error="std")
        panels.append(Panel(series, f"Paper: GPT-3 175B, {dataset}", "accuracy, %"))
    # Ours are of one model, one data set and one metric.
    first = scores.iloc[0]
    metric = first["metric"].replace("/", " ")  # `test accuracy`
    return lines_with_errors(
        by_label(scores, by, x=x),
        title=title_of(scores),
        xlabel=xlabel,
        ylabel=f"{metric}, %",
        beside=panels,
    )


def bars_beside_paper(
    scores: Any, datasets: Sequence[str], *, x: str, xlabel: str
) -> Figure:
    """Draw a bar for each line of the scores, and one for each data set of the paper.

    `scores` is a table of `results.scores` with the paper's columns beside.
    """
    first = scores.iloc[0]
    # Both have the same categories: the paper's scores are columns of our table.
    categories = list(scores[x])
    # As the columns of the page's table are called.
    ours = f"ours: {title_of(scores)}"
    series: dict[str, Any] = {ours: (categories, scores["score"], scores["error"])}
    for dataset in datasets:
        column = f"paper {dataset}"
        errors = scores[f"{column} std"]
        label = f"{column}: GPT-3 175B"
        series[label] = (categories, scores[column], errors)
    start = _start_of_bars(series)
    metric = first["metric"].partition("/")[2]
    return bars_with_errors(
        series,
        title="",
        xlabel=xlabel,
        ylabel=f"{metric}, %",
        ylim=(start, 100),
    )


def _start_of_bars(series: Series) -> int:
    """A ten below the lowest score, as the scores differ little; at least 0."""
    # Half a ten more, so that the lowest bar can be seen.
    values = np.concatenate([scores for _, scores, _ in series.values()])
    # A set that the paper does not have is empty, as is one that diverged.
    known = values[np.isfinite(values)]
    lowest = known.min() if len(known) else 0
    return max(0, 10 * math.floor(lowest / 10 - 0.5))
