"""Bars stacked of parts, each with the measured whole beneath it, in a grid of panels: drawn on `Figure` itself, no pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_jax.results.plots import COLORS, HATCHES


class Bar(NamedTuple):
    """One bar: its parts by name, in the order they are stacked, and the whole as measured (None: not known)."""

    label: str
    parts: Mapping[str, float]
    whole: float | None = None


class Panel(NamedTuple):
    """The bars of one set of axes, the first on top."""

    title: str
    bars: Sequence[Bar]


def stacked(rows: Sequence[Sequence[Panel]], *, xlabel: str, whole: str) -> Figure:
    """The panels in rows and columns; those of a column have one scale. A part has one color and hatching everywhere.

    whole: what the legend calls the measured wholes.
    Raises ValueError for no panel or rows of unequal length, and listing every panel without bars or with a negative part.
    """
    _check(rows)
    columns, bars = (
        len(rows[0]),
        [bar for row in rows for panel in row for bar in panel.bars],
    )
    most, names = (
        max(len(panel.bars) for row in rows for panel in row),
        list(dict.fromkeys(n for b in bars for n in b.parts)),
    )
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a personal matplotlibrc must not change committed figures
        matplotlib.rcParams.update(
            {"font.size": 12, "axes.titlesize": 12, "hatch.linewidth": 0.6}
        )
        matplotlib.rcParams.update(
            {"axes.spines.top": False, "axes.spines.right": False}
        )
        size = 2.4 + 3.4 * columns, 1.1 + len(rows) * (0.9 + 0.42 * most)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), columns, sharex="col", squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            for ax, panel in zip(line, row, strict=True):
                _draw(ax, panel, names, whole)
                ax.tick_params(
                    axis="y",
                    length=0,
                    labelleft=ax is line[0] or _labels(panel) != _labels(row[0]),
                )
        for ax in axes[-1]:
            ax.set_xlabel(xlabel)
        found: dict[str, Any] = {}
        for ax in axes.flat:
            found |= {
                name: handle
                for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
            }
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=min(len(found), 3 * columns),
            frameon=False,
        )
        figure.draw_without_rendering()  # ticks are made when first drawn, and must be made in our style
    return figure


def _check(rows: Sequence[Sequence[Panel]]) -> None:
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(
            f"expected rows with equally many panels, at least one; got {[len(row) for row in rows]}"
        )
    problems = [
        f"{panel.title!r}: expected bars, got none"
        for row in rows
        for panel in row
        if not panel.bars
    ]
    problems += [
        f"{panel.title!r}, {bar.label!r}: expected {name} of 0 or more, got {value:g}"
        for row in rows
        for panel in row
        for bar in panel.bars
        for name, value in bar.parts.items()
        if not value >= 0
    ]
    if problems:
        raise ValueError("\n".join(problems))


def _labels(panel: Panel) -> list[str]:
    return [bar.label for bar in panel.bars]


def _draw(ax: Axes, panel: Panel, names: Sequence[str], whole: str) -> None:
    places = range(len(panel.bars))
    left = [0.0] * len(panel.bars)
    for index, name in enumerate(names):
        width = [bar.parts.get(name, 0.0) for bar in panel.bars]
        style: dict[str, Any] = {
            "color": COLORS[index % 6],
            "hatch": HATCHES[index % 7],
            "edgecolor": "white",
        }
        ax.barh(
            [place - 0.12 for place in places],
            width,
            0.5,
            left=left,
            label=name,
            zorder=2,
            **style,
        )
        left = [a + b for a, b in zip(left, width, strict=True)]
    known = [
        (place + 0.25, bar.whole)
        for place, bar in zip(places, panel.bars, strict=True)
        if bar.whole is not None
    ]
    if known:
        ax.barh(
            [place for place, _ in known],
            [value for _, value in known],
            0.2,
            color=COLORS[6],
            label=whole,
            zorder=2,
        )
    ax.set_title(panel.title, loc="left")
    ax.set_yticks(places, _labels(panel))
    ax.invert_yaxis()
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x", color="#dddddd", zorder=0)
