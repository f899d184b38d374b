"""Grids of heat maps under one color scale.

They are laid out as LoRA's Figures 3, 4 and 6 to 8 are: i goes down, j across, both
counted from 1, and what is NaN is left white. The colors, viridis, keep their order for
color-blind readers and in gray.
"""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from lora_jax.results.figure_style import FONT_SIZE, fixed_style

TITLE_WIDTH = 17  # characters in a line of a panel's title


class Panel(NamedTuple):
    """One heat map: `values[i - first, j - 1]` is the cell (i, j)."""

    title: str
    values: Float[np.ndarray, "i j"]
    first: int = 1  # the i of the first line
    last: int | None = None  # that of the last; None where no line is left out


def grid(rows: Sequence[Sequence[Panel | None]], *, label: str) -> Figure:
    """Draw the panels in rows and columns; `label` is that of the color bar.

    Colors go from 0 to the highest value of all panels. None, or the missing end of a
    short row, leaves a place empty.

    Raises:
        ValueError: no panel; or lists the panels that are not a matrix with a finite
            value and without negative ones.
    """
    places = _places(rows)
    columns = max(map(len, rows), default=0)
    panels = [panel for panel in places if panel]
    highest = _highest(panels)
    with fixed_style(is_boxed=True):
        # Inches: four columns are as wide as a text's column can show.
        size = (1.2 + 2.1 * columns, 0.4 + 2.3 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        images = []
        for ax, panel in zip(axes.flat, places, strict=True):
            if panel:
                images.append(_draw(ax, panel, highest))
            else:
                ax.set_visible(False)
        # All images have one scale: the bar of the first is that of all.
        # As thick beside many rows as beside one.
        aspect = 12 * len(rows)
        bar = figure.colorbar(
            images[0],
            ax=axes,
            label=label,
            aspect=aspect,
            pad=0.02,
        )
        bar.ax.tick_params(labelsize=FONT_SIZE)
    return figure


def upper(values: Float[np.ndarray, "i j"]) -> Float[np.ndarray, "i j"]:
    """Return the cells with j >= i, the others as NaN."""
    is_below = np.tri(*np.shape(values), k=-1, dtype=bool)  # [i, j]
    return np.where(is_below, np.nan, values)


def lower(values: Float[np.ndarray, "i j"]) -> Float[np.ndarray, "i i"]:
    """Return the cells with j <= i of the leading square, the others as NaN."""
    size = len(values)
    is_kept = np.tri(size, dtype=bool)  # [i, i]
    return np.where(is_kept, values[:, :size], np.nan)


def _places(rows: Sequence[Sequence[Panel | None]]) -> list[Panel | None]:
    """The panels line by line, with None where there is none."""
    columns = max(map(len, rows), default=0)
    places: list[Panel | None] = []
    for row in rows:
        places += row
        places += [None] * (columns - len(row))
    return places


def _highest(panels: Sequence[Panel]) -> float:
    """The highest value of all, once every panel is known to be drawable."""
    if not panels:
        raise ValueError("expected at least one panel, got none")
    problems = []
    for panel in panels:
        if not _is_drawable(panel.values):
            problems.append(
                f"{panel.title!r}: expected a matrix with values of 0 or more, "
                f"got shape {np.shape(panel.values)}"
            )
    if problems:
        raise ValueError("\n".join(problems))
    highest = 0.0
    for panel in panels:
        highest = max(highest, float(np.nanmax(panel.values)))
    return highest


def _is_drawable(values: np.ndarray) -> bool:
    if np.ndim(values) != 2:
        return False
    # Of NaN alone there is no minimum.
    if not np.isfinite(values).any():
        return False
    return bool(np.nanmin(values) >= 0)


def _draw(ax: Axes, panel: Panel, highest: float) -> AxesImage:
    lines, columns = panel.values.shape
    last = panel.last
    if last is None:
        last = panel.first + lines - 1
    # Cells are centered on whole numbers; i grows downward.
    edges = (0.5, columns + 0.5, last + 0.5, panel.first - 0.5)
    image = ax.imshow(
        np.ma.masked_invalid(panel.values),
        extent=edges,
        vmin=0,
        vmax=highest,
        cmap="viridis",
        aspect="auto",
    )
    title = textwrap.fill(panel.title, TITLE_WIDTH)
    ax.set_title(title, loc="left")
    ax.set_xlabel("j")
    ax.set_ylabel("i", rotation=0, labelpad=10)
    # Ticks are made when first drawn, in the style of that moment: their size is set
    # here for each.
    ax.tick_params(labelsize=FONT_SIZE)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return image
