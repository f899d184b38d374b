"""Figures of grouped bars with error bars: a group for each category on the x axis."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_jax.results.figure_style import (
    COLORS,
    HATCHES,
    color_indices,
    fixed_style,
)
from lora_jax.results.panels import (
    TITLE_SIZE,
    WIDTH,
    Panel,
    Series,
    add_legend,
    announce_cut,
    checked_labels,
    decorate,
    new_figure,
)

LABEL_WIDTH = 10  # letters in a line of a category's label

GROUP_WIDTH = 0.8  # of the distance between two groups


def bars_with_errors(
    series: Series,
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    ylim: tuple[float, float] | None = None,
) -> Figure:
    """Draw a group of bars for each category, with a bar for each label.

    x holds the names of categories, which stand in order of appearance. Bars start at 0
    unless `ylim` says otherwise.

    Raises:
        ValueError: unequal lengths or no data.
    """
    # Everything is checked before anything is drawn.
    panel = Panel(series, title, ylabel)
    labels = checked_labels([panel])
    categories = _categories(series)
    # Inches: each group has room for its bars and a gap of one bar.
    width = 1.6 + 0.34 * len(categories) * (len(labels) + 1)
    with fixed_style(TITLE_SIZE):
        figure, (ax,) = new_figure(1, max(WIDTH, width))
        decorate(ax, panel, xlabel)
        handles = _draw_bars(ax, series, categories)
        texts = [_wrapped(str(category)) for category in categories]
        ax.set_xticks(range(len(categories)), texts)
        # A category is no point of an axis: it has no tick.
        ax.tick_params(axis="x", length=0)
        if ylim is not None:
            ax.set_ylim(*ylim)
            announce_cut(ax)
        add_legend(figure, handles)
    return figure


def _categories(series: Series) -> list[str]:
    """The names on the x axis, in order of appearance."""
    # A label may lack categories that others have.
    names: dict[str, None] = {}
    for x, _, _ in series.values():
        names |= dict.fromkeys(map(str, x))
    return list(names)


def _draw_bars(ax: Axes, series: Series, categories: Sequence[str]) -> dict[str, Any]:
    """Draw all bars, and return what stands for each label."""
    # In units of the x axis, where groups are 1 apart.
    width = GROUP_WIDTH / len(series)
    indices = color_indices(list(series))
    handles = {}
    for index, (label, (x, y, error)) in enumerate(series.items()):
        # The middle of a group is at its category's index.
        offset = (index - (len(series) - 1) / 2) * width
        positions = [categories.index(str(name)) + offset for name in x]
        handles[label] = ax.bar(
            positions,
            y,
            width,
            yerr=error,
            label=label,
            color=COLORS[indices[label]],
            hatch=HATCHES[indices[label]],
            edgecolor="white",
            capsize=4,
            ecolor="#333333",
            zorder=2,
        )
    return handles


def _wrapped(label: str) -> str:
    """A label whose lines end at commas: long ones would run into their neighbors."""
    # A label with line breaks is as it is to be.
    if "\n" in label:
        return label
    words = label.replace(",", ", ")
    lines = textwrap.wrap(words, LABEL_WIDTH, break_long_words=False)
    # Names of matrices are written without spaces.
    return "\n".join(lines).replace(", ", ",")
