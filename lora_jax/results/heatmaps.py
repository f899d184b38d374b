"""Grids of heat maps under one color scale, drawn on `matplotlib.figure.Figure` itself: no pyplot, no global state.

Laid out as LoRA's Figures 3, 4 and 6 to 8 are: i goes down, j across, both counted from 1, and what is NaN is left white. Viridis
keeps its order for color-blind readers and in gray. Text stays readable at 60 % of the size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator


class Panel(NamedTuple):
    """One heat map: values[i - first, j - 1]; `last` is the i of its last line, by default the lines follow one by one."""

    title: str
    values: Float[np.ndarray, "i j"]
    first: int = 1
    last: int | None = None


def grid(rows: Sequence[Sequence[Panel | None]], *, label: str) -> Figure:
    """The panels in rows and columns, None or a missing end of a row left empty; colors go from 0 to the greatest value of all.

    label: of the color bar.
    Raises ValueError that lists every panel that is not a matrix with a finite value, none of them negative; and for no panel.
    """
    columns = max((len(row) for row in rows), default=0)
    places = [panel for row in rows for panel in [*row, *[None] * (columns - len(row))]]
    top = _highest([panel for panel in places if panel])
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a personal matplotlibrc must not change committed figures
        matplotlib.rcParams.update({"font.size": 12, "axes.titlesize": 12})
        figure = Figure(
            figsize=(1.2 + 3 * columns, 0.4 + 2.5 * len(rows)), layout="constrained"
        )
        axes = figure.subplots(len(rows), columns, squeeze=False)
        images = [
            _draw(ax, panel, top)
            for ax, panel in zip(axes.flat, places, strict=True)
            if panel
        ]
        for ax, panel in zip(axes.flat, places, strict=True):
            ax.set_visible(panel is not None)
        bar = figure.colorbar(
            images[0], ax=axes, label=label, aspect=12 * len(rows), pad=0.02
        )
        bar.ax.tick_params(labelsize=12)
    return figure


def upper(values: Float[np.ndarray, "i j"]) -> Float[np.ndarray, "i j"]:
    """The cells with j >= i, the others NaN."""
    return np.where(np.tri(*np.shape(values), k=-1, dtype=bool), np.nan, values)


def lower(values: Float[np.ndarray, "i j"]) -> Float[np.ndarray, "i i"]:
    """The cells with j <= i, the others NaN, of the leading square."""
    return np.where(np.tri(len(values), dtype=bool), values[:, : len(values)], np.nan)


def _highest(panels: Sequence[Panel]) -> float:
    if not panels:
        raise ValueError("expected at least one panel, got none")
    problems = []
    for title, values, *_ in panels:
        if (
            np.ndim(values) != 2
            or not np.isfinite(values).any()
            or np.nanmin(values) < 0
        ):
            problems.append(
                f"{title!r}: expected a matrix with values of 0 or more, got shape {np.shape(values)}"
            )
    if problems:
        raise ValueError("\n".join(problems))
    return max(float(np.nanmax(panel.values)) for panel in panels)


def _draw(ax: Axes, panel: Panel, top: float) -> AxesImage:
    lines, columns = panel.values.shape
    last = panel.first + lines - 1 if panel.last is None else panel.last
    edges = (0.5, columns + 0.5, last + 0.5, panel.first - 0.5)
    cells = np.ma.masked_invalid(panel.values)
    image = ax.imshow(
        cells, extent=edges, vmin=0, vmax=top, cmap="viridis", aspect="auto"
    )
    ax.set_title(panel.title, loc="left")
    ax.set_xlabel("j")
    ax.set_ylabel("i", rotation=0, labelpad=10)
    ax.tick_params(
        labelsize=12
    )  # said of each, as ticks are made when first drawn, in whatever style is then
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    return image
