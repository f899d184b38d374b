"""Heat maps of subspace similarity in the way of LoRA's Figures 3, 4, 6 and 7.

A comparison is of one kind: "rank" of two ranks, "seed" of two seeds. Figures 3 and 4
have the middle layer, Figures 6 and 7 have several layers.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.figure import Figure

from lora_jax.results import heatmaps
from lora_jax.results.pages.similarity_maps import RANDOM, Maps, Phi

Visible = Callable[[Phi], Phi]
"""Makes the cells NaN that a heat map leaves white."""


def middle_layer(kind: str, sources: Sequence[Maps]) -> Figure:
    """Draw Figure 3 or 4 in kind: the middle layer, ours above the paper's."""
    visible = _visible_cells(kind)
    # A line of panels for each source.
    rows = []
    for maps in sources:
        panels = []
        for name in maps.phi:
            panel = _panel(maps, name, maps.middle, visible)
            panels.append(panel)
        rows.append(panels)
    if kind == "rank":
        # Figure 3's third and fourth panel; the paper's have not been read.
        first = sources[0]
        for name in first.phi:
            panel = _panel(first, name, first.middle, heatmaps.lower)
            title = f"{panel.title}, j ≤ i"
            panel = panel._replace(title=title)
            rows[0].append(panel)
    return heatmaps.grid(rows, label="φ(i, j)")


def all_layers(kind: str, sources: Sequence[Maps]) -> Figure:
    """Draw Figure 6 or 7 in kind: a column for each matrix, a line for each layer."""
    visible = _visible_cells(kind)
    columns = []
    for maps in sources:
        for name, by_layer in maps.phi.items():
            # Random matrices have no layers.
            if name == RANDOM:
                continue
            panels = []
            for layer in sorted(by_layer):
                panels.append(_panel(maps, name, layer, visible))
            columns.append(panels)
    # The grid is drawn line by line. Models differ in layers: short columns end early.
    lines = list(zip_longest(*columns))
    return heatmaps.grid(lines, label="φ(i, j)")


def _visible_cells(kind: str) -> Visible:
    """Between two ranks the paper leaves the cells with j < i white."""
    return heatmaps.upper if kind == "rank" else np.asarray


def _panel(maps: Maps, name: str, layer: int, visible: Visible) -> heatmaps.Panel:
    title = f"{maps.source}: {name}"
    # The layer is a fraction of the model's depth: models differ in it.
    if name != RANDOM:
        title += f", layer {layer}/{maps.layers}"
    phi = maps.phi[name][layer]
    values = visible(phi)
    return heatmaps.Panel(title, values)
