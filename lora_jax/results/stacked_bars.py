"""Bars stacked of parts in a grid of panels, each with its measured total beneath."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_jax.results.figure_style import (
    COLORS,
    GRID_COLOR,
    HATCHES,
    color_indices,
    fixed_style,
    legend_handles,
)

TOTAL_COLOR = "#000000"


class Bar(NamedTuple):
    """One bar: its parts in the order they are stacked, and its total."""

    label: str
    parts: Mapping[str, float]
    total: float | None = None  # as measured, None where it is not known


class Panel(NamedTuple):
    """The bars of one set of axes, the first on top."""

    title: str
    bars: Sequence[Bar]


Rows = Sequence[Sequence[Panel]]


def stacked(rows: Rows, *, xlabel: str, total_label: str) -> Figure:
    """Draw the panels in rows and columns; those of a column have one scale.

    A part has one color and hatching in all panels. `total_label` is what the legend
    calls the measured totals.

    Raises:
        ValueError: no panel or rows of unequal length; or lists the panels without bars
            and the negative parts.
    """
    _check(rows)
    columns = len(rows[0])
    parts = _part_names(rows)
    with fixed_style():
        figure = Figure(figsize=_size(rows), layout="constrained")
        axes = figure.subplots(len(rows), columns, sharex="col", squeeze=False)
        for axes_of_row, row in zip(axes, rows, strict=True):
            _draw_row(axes_of_row, row, parts, total_label)
        # Columns share their x axis: its label stands under the last row.
        for ax in axes[-1]:
            ax.set_xlabel(xlabel)
        _add_legend(figure, axes, columns)
    return figure


def _check(rows: Rows) -> None:
    lengths = [len(row) for row in rows]
    if len(set(lengths)) != 1 or not rows[0]:
        raise ValueError(
            f"expected rows with equally many panels, at least one; got {lengths}"
        )
    # All problems in one error; empty panels first.
    problems = []
    for panel in _panels(rows):
        if not panel.bars:
            problems.append(f"{panel.title!r}: expected bars, got none")
    for panel in _panels(rows):
        problems += _bad_parts(panel)
    if problems:
        raise ValueError("\n".join(problems))


def _bad_parts(panel: Panel) -> list[str]:
    problems = []
    for bar in panel.bars:
        for name, value in bar.parts.items():
            # Written so that NaN is refused too.
            if not value >= 0:
                problems.append(
                    f"{panel.title!r}, {bar.label!r}: expected {name} of 0 or more, "
                    f"got {value:g}"
                )
    return problems


def _panels(rows: Rows) -> Iterator[Panel]:
    for row in rows:
        yield from row


def _part_names(rows: Rows) -> list[str]:
    """The parts of all bars, in order of appearance: their index gives the color."""
    names: dict[str, None] = {}
    for panel in _panels(rows):
        for bar in panel.bars:
            names |= dict.fromkeys(bar.parts)
    return list(names)


def _size(rows: Rows) -> tuple[float, float]:
    """Width and height in inches, with room for the panel that has the most bars."""
    bars = max(len(panel.bars) for panel in _panels(rows))
    # Three panels are as wide as a text's column can show.
    width = 2.4 + min(3.4, 6.6 / len(rows[0])) * len(rows[0])
    height = 1.1 + len(rows) * (0.9 + 0.42 * bars)
    return width, height


def _draw_row(
    axes: Sequence[Axes], row: Sequence[Panel], parts: Sequence[str], total_label: str
) -> None:
    for ax, panel in zip(axes, row, strict=True):
        _draw_parts(ax, panel, parts)
        _draw_totals(ax, panel, total_label)
        _decorate(ax, panel)
        # Labels that the first panel of the row has already are not repeated.
        has_labels = ax is axes[0] or _labels(panel) != _labels(row[0])
        ax.tick_params(axis="y", length=0, labelleft=has_labels)


def _labels(panel: Panel) -> list[str]:
    return [bar.label for bar in panel.bars]


def _draw_parts(ax: Axes, panel: Panel, parts: Sequence[str]) -> None:
    # A little above the middle, to make room for the total.
    positions = np.arange(len(panel.bars)) - 0.12
    # Where the next part of each bar starts.
    left = np.zeros(len(panel.bars))
    indices = color_indices(parts)
    for name in parts:
        # A bar without this part has a piece of no width.
        widths = np.array([bar.parts.get(name, 0.0) for bar in panel.bars])
        ax.barh(
            positions,
            widths,
            0.5,
            left=left,
            label=name,
            color=COLORS[indices[name]],
            hatch=HATCHES[indices[name]],
            edgecolor="white",
            zorder=2,
        )
        left = left + widths


def _draw_totals(ax: Axes, panel: Panel, label: str) -> None:
    positions = []
    totals = []
    for index, bar in enumerate(panel.bars):
        if bar.total is not None:
            positions.append(index + 0.25)
            totals.append(bar.total)
    # Without a total there is nothing for the legend either.
    if totals:
        ax.barh(positions, totals, 0.2, color=TOTAL_COLOR, label=label, zorder=2)


def _decorate(ax: Axes, panel: Panel) -> None:
    ax.set_title(panel.title, loc="left")
    ax.set_yticks(range(len(panel.bars)), _labels(panel))
    # The first bar on top.
    ax.invert_yaxis()
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="x", color=GRID_COLOR, zorder=0)


def _add_legend(figure: Figure, axes: np.ndarray, columns: int) -> None:
    handles_by_label = legend_handles(axes.flat)
    figure.legend(
        list(handles_by_label.values()),
        list(handles_by_label),
        loc="outside lower center",
        ncols=min(len(handles_by_label), 2 + columns),
        frameon=False,
    )
    # Ticks are made when first drawn, and must be made in our style.
    figure.draw_without_rendering()
