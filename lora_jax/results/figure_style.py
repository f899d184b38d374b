"""The look that all figures share, whatever the reader's own matplotlib settings are.

Figures are drawn on `matplotlib.figure.Figure` itself: no pyplot, no global state. The
colors are Okabe and Ito's, which stay apart for color-blind readers. Text stays
readable at 60 % of a figure's size.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes

# Series have a marker or a hatching beside their color, for a print in gray.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
GRID_COLOR = "#dddddd"
FONT_SIZE = 12  # points


@contextmanager
def fixed_style(
    title_size: int = FONT_SIZE, *, is_boxed: bool = False
) -> Iterator[None]:
    """Draw the block's figures in this package's style.

    `title_size` is in points. Axes that are boxed have a top and a right edge.
    """
    with matplotlib.rc_context():
        # A personal matplotlibrc must not change committed figures.
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.size"] = FONT_SIZE
        matplotlib.rcParams["axes.titlesize"] = title_size
        matplotlib.rcParams["axes.spines.top"] = is_boxed
        matplotlib.rcParams["axes.spines.right"] = is_boxed
        # The default, 1 point, hides the color under it.
        matplotlib.rcParams["hatch.linewidth"] = 0.6
        yield


def legend_handles(axes: Iterable[Axes]) -> dict[str, Any]:
    """Return what stands for each label of the axes, in order of appearance."""
    handles_by_label = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            # Panels share their labels: one handle of each is enough.
            handles_by_label[label] = handle
    return handles_by_label
