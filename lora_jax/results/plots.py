"""Figures of scores with error bars, drawn on `matplotlib.figure.Figure` itself: no pyplot, no global state.

Colors are Okabe and Ito's, which stay apart for color-blind readers, and every series has its own marker or hatching
too. The legend lies under the panels, where it can cover no data. Text stays readable at 60 % of the size.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_TICKS = 8  # of an axis: the labels of more would overlap
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")

Series = Mapping[str, tuple[Sequence[Any], Sequence[float], Sequence[float] | None]]
"""Label -> (x, y, error of y or None), of equal length; a NaN y is a gap, a NaN error no bar."""


class Panel(NamedTuple):
    """One set of axes beside the first, with a y axis of its own."""

    series: Series
    title: str
    ylabel: str


def by_label(
    table: Any, label: str, *, x: str, y: str = "score", error: str = "error"
) -> Series:
    """Return a series for each value of a column, in the order of the table."""
    series = {}
    for name, part in table.groupby(label, sort=False):
        series[str(name)] = (part[x], part[y], part[error])
    return series


def lines_beside_paper(
    scores: Any, published: Any, *, by: str, x: str, xlabel: str
) -> Figure:
    """Draw a line for each value of `by`, and a panel for each data set of the paper.

    `scores` is a table of `results.scores`, `published` one of `lora_jax.paper`.
    """
    panels = []
    for dataset, part in published.groupby("dataset", sort=False):
        series = by_label(part, by, x=x, y="value", error="std")
        panels.append(Panel(series, f"Paper: GPT-3 175B, {dataset}", "accuracy, %"))
    first = scores.iloc[0]
    metric = first["metric"].replace("/", " ")
    return lines_with_errors(
        by_label(scores, by, x=x),
        title=f"{first['model']}, {first['data']}",
        xlabel=xlabel,
        ylabel=f"{metric}, %",
        beside=panels,
    )


def lines_with_errors(
    series: Series,
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    xscale: str = "log2",
    beside: Sequence[Panel] = (),
) -> Figure:
    """Lines over x with error bars, x ticks at the values there are; a label has one color and marker in all panels.

    xscale: "log2" or "linear". beside: further panels, e.g. the paper's trend on another model and data set.
    Raises ValueError for unequal lengths, no data, another xscale, or an x not above 0 on the log scale.
    """
    if xscale not in ("log2", "linear"):
        raise ValueError(f"xscale: expected log2 or linear, got {xscale!r}")
    panels = [Panel(series, title, ylabel), *beside]
    labels = _labels(panels)
    ticks = sorted(
        {float(v) for panel in panels for x, _, _ in panel.series.values() for v in x}
    )
    if xscale == "log2" and ticks[0] <= 0:
        raise ValueError(
            f"x must be above 0 on a log2 scale, got {ticks[0]:g}; pass xscale='linear'"
        )
    if len(ticks) > MOST_TICKS:
        ticks = ticks[::2]
    with _style():
        figure, axes = _figure(len(panels), width=max(6.4, 4.4 * len(panels)))
        for ax, panel in zip(axes, panels, strict=True):
            if xscale == "log2":
                ax.set_xscale("log", base=2)
            _decorate(ax, panel, xlabel)
            for label, points in panel.series.items():
                _line(ax, points, label, labels)
            ax.xaxis.set_major_locator(FixedLocator(ticks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.margins(x=0.08, y=0.12)
        _legend(figure, axes, labels)
    return figure


def horizontal_line(figure: Figure, value: float, index: int) -> None:
    """Draw a dotted line in the first panel, in the color of a series."""
    color = COLORS[index % len(COLORS)]
    figure.axes[0].axhline(value, color=color, linestyle=":", linewidth=1.5)


def curves(series: Series, *, xlabel: str, ylabel: str, title: str) -> Figure:
    """Lines through many points, without markers. Raises ValueError for unequal lengths or no data."""
    labels = _labels([Panel(series, title, ylabel)])
    with _style():
        figure, (ax,) = _figure(1, width=6.4)
        _decorate(ax, Panel(series, title, ylabel), xlabel)
        for i, (label, (x, y, _)) in enumerate(series.items()):
            ax.plot(
                x,
                y,
                color=COLORS[i % 7],
                linestyle=("-", "--", ":", "-.")[i // 7 % 4],
                linewidth=1.8,
                label=label,
                zorder=3,
            )
        _legend(figure, [ax], labels)
    return figure


def bars_beside_paper(
    scores: Any, datasets: Sequence[str], *, x: str, xlabel: str
) -> Figure:
    """Draw a bar for each line of the scores, and one for each data set of the paper.

    `scores` is a table of `results.scores` with the paper's columns beside.
    """
    first = scores.iloc[0]
    names = list(scores[x])
    ours = f"{first['model']}, {first['data']}"
    series: dict[str, Any] = {ours: (names, scores["score"], scores["error"])}
    for dataset in datasets:
        column = f"paper {dataset}"
        errors = scores[f"{column} std"]
        series[f"paper: GPT-3 175B, {dataset}"] = (names, scores[column], errors)
    # The differences are small: the bars start at the ten below the lowest of them.
    lowest = np.nanmin([np.nanmin(values) for _, values, _ in series.values()])
    base = max(0, 10 * math.floor(lowest / 10 - 0.5))
    start = f" (bars start at {base})" if base else ""
    metric = first["metric"].partition("/")[2]
    return bars_with_errors(
        series,
        title="",
        xlabel=xlabel,
        ylabel=f"{metric}, %{start}",
        ylim=(base, 100),
    )


def bars_with_errors(
    series: Series,
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    ylim: tuple[float, float] | None = None,
) -> Figure:
    """Grouped bars with error bars: x holds category names, one group each in order of appearance, one bar per label.

    Bars start at 0 unless `ylim` says otherwise. Raises ValueError for unequal lengths or no data.
    """
    labels = _labels([Panel(series, title, ylabel)])
    names = list(dict.fromkeys(str(name) for x, _, _ in series.values() for name in x))
    width = 0.8 / len(labels)
    with _style():
        figure, (ax,) = _figure(
            1, width=max(6.4, 1.6 + 0.34 * len(names) * (len(labels) + 1))
        )
        _decorate(ax, Panel(series, title, ylabel), xlabel)
        for i, (label, (x, y, error)) in enumerate(series.items()):
            place = [
                names.index(str(name)) + (i - (len(labels) - 1) / 2) * width
                for name in x
            ]
            style: dict[str, Any] = {
                "color": COLORS[i % 7],
                "hatch": HATCHES[i % 7],
                "edgecolor": "white",
            }
            ax.bar(
                place,
                y,
                width,
                yerr=error,
                label=label,
                capsize=4,
                ecolor="#333333",
                zorder=2,
                **style,
            )
        ax.set_xticks(range(len(names)), names)
        ax.tick_params(axis="x", length=0)
        if ylim is not None:
            ax.set_ylim(*ylim)
        _legend(figure, [ax], labels)
    return figure


def _labels(panels: Sequence[Panel]) -> list[str]:
    """All labels in order of appearance, once every series is known to be drawable."""
    problems = []
    for panel in panels:
        if not any(
            np.isfinite(np.asarray(y, float)).any() for _, y, _ in panel.series.values()
        ):
            problems.append(f"{panel.title!r} has no data")
        for label, (x, y, error) in panel.series.items():
            sizes = [len(x), len(y), *([] if error is None else [len(error)])]
            if len(set(sizes)) > 1:
                problems.append(
                    f"{panel.title!r}, {label!r}: expected x, y and error of equal length, got {sizes}"
                )
    if problems:
        raise ValueError("\n".join(problems))
    return list(dict.fromkeys(label for panel in panels for label in panel.series))


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a personal matplotlibrc must not change committed figures
        matplotlib.rcParams.update(
            {"font.size": 12, "axes.titlesize": 13, "hatch.linewidth": 0.6}
        )
        matplotlib.rcParams.update(
            {"axes.spines.top": False, "axes.spines.right": False}
        )
        yield


def _figure(panels: int, width: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(width, 4.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    )
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _decorate(ax: Axes, panel: Panel, xlabel: str) -> None:
    ax.set_title(panel.title, loc="left")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(panel.ylabel)
    ax.grid(axis="y", color="#dddddd", zorder=0)


def _line(
    ax: Axes, points: tuple[Any, Any, Any], label: str, labels: Sequence[str]
) -> None:
    index = labels.index(label)
    order = np.argsort(np.asarray(points[0], float), kind="stable")
    x, y, error = (
        np.full(len(order), np.nan) if v is None else np.asarray(v, float)[order]
        for v in points
    )
    style: dict[str, Any] = {
        "color": COLORS[index % 7],
        "marker": MARKERS[index % 7],
        "label": label,
    }
    style |= {
        "linestyle": "-" if index < 7 else "--",
        "linewidth": 1.8,
        "markersize": 7,
        "capsize": 4,
        "zorder": 3,
    }
    line, caps, bars = ax.errorbar(x, y, yerr=error, **style).lines
    # Series are moved apart by some points on the page, so that error bars at one x do not hide each other; moved
    # after drawing, because limits are only found for artists in data coordinates.
    apart = ScaledTranslation(
        (index - (len(labels) - 1) / 2) * 5 / 72, 0, ax.figure.dpi_scale_trans
    )
    for artist in (line, *caps, *bars):
        artist.set_transform(ax.transData + apart)


def _legend(figure: Figure, axes: Sequence[Axes], labels: Sequence[str]) -> None:
    found = {
        text: handle
        for ax in axes
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    most = max(
        1, min(4, int(14 * figure.get_figwidth() / (max(map(len, labels)) + 8)))
    )  # so that they fit between the edges
    lines = math.ceil(len(labels) / most)
    columns = math.ceil(len(labels) / lines)
    texts = [textwrap.fill(label, int(10 * figure.get_figwidth())) for label in labels]
    lines += sum(text.count("\n") for text in texts)
    figure.set_figheight(figure.get_figheight() + 0.25 * max(0, lines - 2))
    handles = [found[label] for label in labels]
    figure.legend(
        handles, texts, loc="outside lower center", ncols=columns, frameon=False
    )
    figure.draw_without_rendering()  # ticks are made when first drawn, and must be made in our style
