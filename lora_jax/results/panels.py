"""Panels of a figure: what every kind of plot has around its lines or bars.

A panel is a set of axes with a title and a y axis of its own. A label has one color in
all panels of a figure, and stands once in the legend under them.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lora_jax.results.figure_style import GRID_COLOR

TITLE_SIZE = 13  # points
WIDTH = 6.4  # inches, of a figure with one panel
MAX_WIDTH = 8.8  # inches: 12 points are 13 pixels in a column of 700
HEIGHT = 4.6  # inches, with a legend of up to two lines
ROW_HEIGHT = 3.7  # inches, of a further row of panels
COLUMNS = 2  # of panels, so that their text stays readable
LEGEND_COLUMNS = 4
CHARACTERS = 9  # an inch has of a title, with a gap to the next one

Points = tuple[Sequence[Any], Sequence[float], Sequence[float] | None]
"""x, y, and the error of y or None, of equal length.

A y that is NaN is a gap, and an error that is NaN leaves out the error bar.
"""

Series = Mapping[str, Points]
"""The points of each label."""


class Panel(NamedTuple):
    """The series of one set of axes, which has a y axis of its own."""

    series: Series
    title: str
    ylabel: str


def checked_labels(panels: Sequence[Panel]) -> list[str]:
    """Return all labels in order of appearance.

    Raises:
        ValueError: lists the panels without data and the series of unequal lengths.
    """
    problems = []
    for panel in panels:
        problems += _problems(panel)
    if problems:
        raise ValueError("\n".join(problems))
    # A dict without values keeps the order and drops repetitions.
    labels: dict[str, None] = {}
    for panel in panels:
        labels |= dict.fromkeys(panel.series)
    return list(labels)


def new_figure(count: int, width: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, two in a row; `width` is in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    size = (min(width, MAX_WIDTH), HEIGHT + ROW_HEIGHT * (rows - 1))
    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    # The last row may be shorter.
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, list(axes[:count])


def decorate(ax: Axes, panel: Panel, xlabel: str) -> None:
    """Draw what surrounds the data: title, axis labels and horizontal grid lines."""
    # In inches. `subplots` has made the axes, in a grid.
    figure: Any = ax.figure
    place: Any = ax.get_subplotspec()
    width = figure.get_figwidth() / place.get_gridspec().ncols
    title = textwrap.fill(panel.title, int(CHARACTERS * width))
    ax.set_title(title, loc="left")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(panel.ylabel)
    ax.grid(axis="y", color=GRID_COLOR, zorder=0)


def announce_cut(ax: Axes) -> None:
    """Say on the y axis that it does not start at 0, once the data are drawn.

    An axis that is cut starts at one of its ticks.
    """
    low, high = ax.get_ylim()
    ticks = ax.yaxis.get_major_locator().tick_values(low, high)
    below = [tick for tick in ticks if tick <= low]
    # Values on both sides of 0 show where it is.
    if low <= 0 or not below:
        return
    start = max(below)
    ax.set_ylim(start, high)
    if start > 0:
        ax.set_ylabel(f"{ax.get_ylabel()}\n(axis starts at {start:g})")


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Put one legend under the panels, where it can cover no data.

    `handles` has what was drawn for each label.
    """
    labels = list(handles)
    width = figure.get_figwidth()
    # A label and its handle, 8 characters wide, must fit between the figure's edges,
    # with 12 characters an inch.
    longest = max(map(len, labels))
    fitting = int(12 * width / (longest + 8))
    limit = max(1, min(LEGEND_COLUMNS, fitting))
    lines = math.ceil(len(labels) / limit)
    # Columns of equal length: four labels stand as 2 + 2, not as 3 + 1.
    columns = math.ceil(len(labels) / lines)
    texts = []
    for label in labels:
        text = textwrap.fill(label, int(10 * width))
        texts.append(text)
        lines += text.count("\n")
    # A longer legend makes the figure higher, and leaves the panels as they are.
    extra_lines = max(0, lines - 2)
    figure.set_figheight(figure.get_figheight() + 0.25 * extra_lines)
    figure.legend(
        list(handles.values()),
        texts,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )
    # Ticks are made when first drawn, and must be made in our style.
    figure.draw_without_rendering()


def _problems(panel: Panel) -> list[str]:
    """Sentences on what makes a panel undrawable."""
    problems = []
    # An empty panel is a fault of the caller: it would be drawn without a word.
    if not _has_data(panel):
        problems.append(f"{panel.title!r} has no data")
    for label, (x, y, error) in panel.series.items():
        sizes = [len(x), len(y)]
        if error is not None:
            sizes.append(len(error))
        if len(set(sizes)) > 1:
            problems.append(
                f"{panel.title!r}, {label!r}: expected x, y and error of equal length, "
                f"got {sizes}"
            )
    return problems


def _has_data(panel: Panel) -> bool:
    for _, y, _ in panel.series.values():
        values = np.asarray(y, float)
        if np.isfinite(values).any():
            return True
    return False
