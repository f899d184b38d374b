"""Heat maps and tables of subspace similarity, ours and the paper's.

`phi[matrix][layer]` is a matrix φ(i, j), NaN where a cell is unknown. Matrices have the
paper's names, and layers count from 1.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.results import heatmaps
from lora_jax.results.rows import Row

RANDOM = "random"
# The paper's names of our matrices.
MATRICES = {"query": "ΔWq", "key": "ΔWk", "value": "ΔWv", "output": "ΔWo"}
# The paper's figures, read cell by cell.
FIGURES = {"rank": paper.lora.figure3_and_6, "seed": paper.lora.figure4_and_7}
INDICES = (1, 2, 4, 8, 16, 32, 64)  # the i of φ(i, i) that tables show

Phi = Float[np.ndarray, "r s"]
"""φ(i, j), with i up to the left side's rank r and j up to the right side's rank s."""

ByMatrix = dict[str, dict[int, Phi]]
"""The maps of each matrix, by layer."""

Visible = Callable[[Phi], Phi]
"""Makes the cells NaN that a heat map leaves white."""


class Maps(NamedTuple):
    """Similarities of one source, by matrix and layer."""

    source: str  # "ours", "paper"
    width: int  # the dimension of the space that directions lie in
    middle: int  # the layer that is visible alone
    layers: int
    phi: ByMatrix

    @property
    def trained(self) -> list[Phi]:
        """The maps of trained matrices, of all layers."""
        maps = []
        for name, by_layer in self.phi.items():
            if name != RANDOM:
                maps += by_layer.values()
        return maps


def ours(rows: Sequence[Row]) -> Maps:
    """Return the maps of rows that are alike in what they compare."""
    layers = max(len(row["phi"]) for row in rows)
    middle = max(1, layers // 2)  # the paper's is the 48th of 96
    phi: ByMatrix = {}
    for row in sorted(rows, key=_matrix_order):
        config = row["config"]
        # Random matrices have no layer: one map stands for all.
        if config["comparison"] == RANDOM:
            only = np.array(row["phi"][0])
            phi[RANDOM] = {middle: only}
            continue
        path = str(config["matrix"])
        _, _, name = path.rpartition("/")
        by_layer = {}
        for layer, values in enumerate(row["phi"], start=1):
            by_layer[layer] = np.array(values)  # [i, j]
        phi[MATRICES.get(name, name)] = by_layer
    return Maps("ours", rows[0]["dimension"], middle, layers, phi)


def published(kind: str) -> Maps:
    """Return the paper's maps: Figures 3 and 6 for "rank", 4 and 7 for "seed"."""
    read = FIGURES[kind]
    return Maps(
        source="paper",
        width=paper.lora.WIDTH,
        middle=paper.lora.MIDDLE_LAYER,
        layers=paper.lora.LAYERS,
        phi=read(),
    )


def middle_layer(kind: str, sources: Sequence[Maps]) -> Figure:
    """Draw Figure 3 or 4 in kind: the middle layer, ours above the paper's."""
    visible = _visible_cells(kind)
    rows = []
    for maps in sources:
        panels = []
        for name in maps.phi:
            panels.append(_panel(maps, name, maps.middle, visible))
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


def similarities(maps: Maps) -> pd.DataFrame:
    """Return φ(i, i) and n for each matrix and layer, their means, and random's."""
    ranks = _ranks(maps)
    lines = []
    for name, by_layer in maps.phi.items():
        values = []
        for layer in sorted(by_layer):
            phi = by_layer[layer]
            numbers = _numbers(phi, maps.width, ranks)
            values.append(numbers)
            # Of random matrices the mean is all there is.
            if name != RANDOM:
                line = [maps.source, name, str(layer), *numbers]
                lines.append(line)
        averages = np.mean(values, axis=0)
        line = [maps.source, name, "mean", *averages]
        lines.append(line)
    # What random directions share: φ(i, i) = i / d on average, and so n = 0.
    expected = [i / maps.width for i in ranks]
    name = f"expected, d = {maps.width}"
    line = [maps.source, name, "", *expected, 0.0]
    lines.append(line)
    titles = [f"φ({i},{i})" for i in ranks]
    columns = ["source", "matrix", "layer", *titles, "n"]
    return pd.DataFrame(lines, columns=columns)


def shared_directions(phi: Phi, width: int) -> float:
    """Return n = r (φ(r, r) - r / d), see `analysis.shared_directions`.

    It is the number of directions that are shared beyond chance; d is `width`.
    """
    rank = len(phi)
    by_chance = rank / width
    similarity = phi.diagonal()[-1]
    return rank * (similarity - by_chance)


def cells(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a line for each i of every map, and a column for each j."""
    lines = []
    for row in sorted(rows, key=_row_order):
        fixed = _fixed_columns(row["config"])
        for layer, phi in enumerate(row["phi"], start=1):
            for i, values in enumerate(phi, start=1):
                line = {**fixed, "layer": layer, "i": i}
                # A column for each j, which counts from 1 too.
                columns = enumerate(values, start=1)
                line |= dict(columns)
                lines.append(line)
    table = pd.DataFrame(lines)
    # The columns of j are numbers as yet.
    return table.rename(columns=str)


def _fixed_columns(config: Mapping) -> dict[str, Any]:
    """What is compared, the same for all cells of a row."""
    # Both sides have the same model and data.
    left = config["left"]
    fixed = {"model": left["model"], "data": left["data"]}
    for name in ("side", "comparison", "matrix"):
        fixed[name] = config[name]
    for side in ("left", "right"):
        options = config[side]
        fixed[f"rank_{side}"] = options["rank"]
        fixed[f"seed_{side}"] = options["seed"]
    return fixed


def _ranks(maps: Maps) -> list[int]:
    """The i of φ(i, i) that all maps have: those of `INDICES`, and the lowest rank."""
    random = maps.phi.get(RANDOM, {})
    all_maps = [*maps.trained, *random.values()]
    rank = min(map(len, all_maps))
    ranks = []
    for i in INDICES:
        if i < rank:
            ranks.append(i)
    ranks.append(rank)
    return ranks


def _numbers(phi: Phi, width: int, ranks: Sequence[int]) -> list[float]:
    """φ(i, i) of these i, then n."""
    diagonal = phi.diagonal()
    numbers = []
    for i in ranks:
        # i counts from 1.
        numbers.append(diagonal[i - 1])
    numbers.append(shared_directions(phi, width))
    return numbers


def _visible_cells(kind: str) -> Visible:
    """Between two ranks the paper leaves the cells with j < i white."""
    return heatmaps.upper if kind == "rank" else np.asarray


def _panel(maps: Maps, name: str, layer: int, visible: Visible) -> heatmaps.Panel:
    title = f"{maps.source}: {name}"
    if name != RANDOM:
        title += f", layer {layer}/{maps.layers}"
    values = visible(maps.phi[name][layer])
    return heatmaps.Panel(title, values)


def _matrix_order(row: Row) -> tuple:
    """Trained matrices by path, random ones last."""
    config = row["config"]
    is_random = config["comparison"] == RANDOM
    return is_random, config["matrix"]


def _row_order(row: Row) -> tuple:
    config = row["config"]
    return config["side"], config["comparison"], config["matrix"], row["key"]
