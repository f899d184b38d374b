"""The look that all figures share, whatever the reader's own matplotlib settings are.

Figures are drawn on `matplotlib.figure.Figure` itself: no pyplot, no global state. The
colors are Okabe and Ito's, which stay apart for color-blind readers. Text stays
readable at 60 % of a figure's size.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes

# Series have a marker or a hatching beside their color, for a print in gray.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#888888"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
# A name has one color in all pictures: the index of its color, marker and hatching. What
# never stands in one picture may share one. A longer label has that of its beginning.
NAMED = {
    # Methods.
    **{"LoRA": 0, "full fine-tuning": 1, "Adapter^H": 2, "Adapter^L": 3},
    **{"PreLayer": 4, "FT-Top2": 5, "BitFit": 6, "as pretrained": 7, "alone": 1},
    # Sets of matrices.
    **{"query": 0, "query,value": 1, "query,key,value,output": 2, "key": 3},
    **{"value": 4, "output": 5, "query,key": 6},
    # Whose scores they are.
    **{"ours": 0, "paper": 1, "paper WikiSQL": 1, "paper MultiNLI": 2},
    # Parts of memory.
    **{"weights": 0, "model": 0, "optimizer": 1, "gradients": 2, "gradient": 2},
    **{"activations": 3, "input gradient": 3, "copies": 4, "adapters": 5},
}
SEPARATORS = (", ", ": ", " ")  # after the name that a longer label begins with
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


def color_indices(labels: Sequence[str]) -> dict[str, int]:
    """Return the index of each label's color, marker and hatching.

    Labels of one figure have different ones as long as there are enough; a label that
    is no name takes the first that is free.
    """
    indices: dict[str, int] = {}
    for label in labels:
        index = _index_of_name(label)
        # Two trainings of one method are two labels.
        if index is not None and index not in indices.values():
            indices[label] = index
    reserved = set(indices.values())
    free = [index for index in range(len(COLORS)) if index not in reserved]
    others = [label for label in labels if label not in indices]
    for position, label in enumerate(others):
        # Once all are used up they are used again.
        choices = free or list(range(len(COLORS)))
        indices[label] = choices[position % len(choices)]
    return indices


def _index_of_name(label: str) -> int | None:
    """The index of the longest name that the label is, or begins with."""
    longest = ""
    for name in NAMED:
        tail = label.removeprefix(name)
        is_name = label == name
        is_beginning = tail != label and tail.startswith(SEPARATORS)
        if (is_name or is_beginning) and len(name) > len(longest):
            longest = name
    return NAMED.get(longest)


def legend_handles(axes: Iterable[Axes]) -> dict[str, Any]:
    """Return what stands for each label of the axes, in order of appearance."""
    handles_by_label = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            # Panels share their labels: one handle of each is enough.
            handles_by_label[label] = handle
    return handles_by_label
