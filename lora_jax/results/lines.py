"""Figures of lines: scores over a setting, with error bars, and long curves."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from lora_jax.results.figure_style import (
    COLORS,
    MARKERS,
    color_indices,
    fixed_style,
)
from lora_jax.results.panels import (
    TITLE_SIZE,
    WIDTH,
    Panel,
    Points,
    Series,
    add_legend,
    announce_cut,
    checked_labels,
    decorate,
    new_figure,
)

MAX_TICKS = 8  # of an axis: the labels of more would overlap
SCALES = ("log2", "linear")
LINE_STYLES = ("-", "--", ":", "-.")


def lines_with_errors(
    series: Series,
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    xscale: str = "log2",
    beside: Sequence[Panel] = (),
) -> Figure:
    """Draw lines over x with error bars, and ticks at the values of x.

    `beside` are further panels, as the paper's trend on another model and data set. A
    label has one color and one marker in all panels. `xscale` is "log2" or "linear".

    Raises:
        ValueError: unequal lengths, no data, another scale, or an x that is not above 0
            on the log scale.
    """
    if xscale not in SCALES:
        raise ValueError(f"xscale: expected log2 or linear, got {xscale!r}")
    # Everything is checked before anything is drawn.
    panels = [Panel(series, title, ylabel), *beside]
    labels = checked_labels(panels)
    ticks = _ticks(panels, xscale)
    with fixed_style(TITLE_SIZE):
        figure, axes = new_figure(len(panels), max(WIDTH, 4.4 * len(panels)))
        handles: dict[str, Any] = dict.fromkeys(labels)
        for ax, panel in zip(axes, panels, strict=True):
            # The scale comes before the data, which are placed by it.
            if xscale == "log2":
                ax.set_xscale("log", base=2)
            decorate(ax, panel, xlabel)
            for label, points in panel.series.items():
                handles[label] = _draw_line(ax, points, label, labels)
            _set_ticks(ax, ticks)
            announce_cut(ax)
        add_legend(figure, handles)
    return figure


def horizontal_line(
    figure: Figure, value: float, label: str, labels: list[str]
) -> None:
    """Draw a dotted line in the first panel, in the color of one of the labels."""
    color = COLORS[color_indices(labels)[label]]
    ax = figure.axes[0]
    ax.axhline(value, color=color, linestyle=":", linewidth=1.5)


def curves(series: Series, *, xlabel: str, ylabel: str, title: str) -> Figure:
    """Draw lines through many points, without markers.

    Raises:
        ValueError: unequal lengths or no data.
    """
    panel = Panel(series, title, ylabel)
    labels = checked_labels([panel])
    with fixed_style(TITLE_SIZE):
        figure, (ax,) = new_figure(1, WIDTH)
        decorate(ax, panel, xlabel)
        handles = {}
        indices = color_indices(labels)
        for position, (label, (x, y, _)) in enumerate(series.items()):
            # The dashes change once all colors are used up.
            turn = position // len(COLORS)
            (handles[label],) = ax.plot(
                x,
                y,
                color=COLORS[indices[label]],
                linestyle=LINE_STYLES[turn % len(LINE_STYLES)],
                linewidth=1.8,
                label=label,
                zorder=3,
            )
        announce_cut(ax)
        add_legend(figure, handles)
    return figure


def _ticks(panels: Sequence[Panel], xscale: str) -> list[float]:
    """The values of x in all panels, every other one if these are too many."""
    values = set()
    for panel in panels:
        for x, _, _ in panel.series.values():
            values.update(map(float, x))
    ticks = sorted(values)
    if xscale == "log2" and ticks[0] <= 0:
        raise ValueError(
            f"x must be above 0 on a log2 scale, got {ticks[0]:g}; pass xscale='linear'"
        )
    if len(ticks) > MAX_TICKS:
        ticks = ticks[::2]
    return ticks


def _set_ticks(ax: Axes, ticks: Sequence[float]) -> None:
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    # A log scale would add ticks between ours.
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(_tick_label))
    # Room for the error bars of the first and the last point.
    ax.margins(x=0.08, y=0.12)


def _tick_label(value: float, _: int | None) -> str:
    return f"{value:g}"


def _draw_line(ax: Axes, points: Points, label: str, labels: Sequence[str]) -> Any:
    """Draw the points with their errors, and return what stands for them."""
    position = labels.index(label)
    index = color_indices(labels)[label]
    x, y, error = _sorted_by_x(points)
    container = ax.errorbar(
        x,
        y,
        yerr=error,
        color=COLORS[index],
        marker=MARKERS[index],
        label=label,
        # A second turn through the colors is dashed.
        linestyle="-" if position < len(COLORS) else "--",
        linewidth=1.8,
        markersize=7,
        capsize=4,
        zorder=3,
    )
    # Series are moved apart on the page, so that error bars at one x do not hide each
    # other. That is done after drawing, because matplotlib finds the limits of an axis
    # only from artists in data coordinates.
    distance = (position - (len(labels) - 1) / 2) * 5 / 72  # inches: 5 points a series
    shift = ScaledTranslation(distance, 0, ax.figure.dpi_scale_trans)
    line, caps, bars = container.lines
    for artist in (line, *caps, *bars):
        artist.set_transform(ax.transData + shift)
    return container


def _sorted_by_x(points: Points) -> list[np.ndarray]:
    """x, y and error as arrays in order of x; errors that are not known are NaN."""
    # Stable, so that points at one x keep their order.
    order = np.argsort(np.asarray(points[0], float), kind="stable")
    columns = []
    for values in points:
        column = np.full(len(order), math.nan)
        if values is not None:
            column = np.asarray(values, float)[order]
        columns.append(column)
    return columns
