"""Heat maps of subspace similarity, ours and the paper's, and the tests on them.

`phi[matrix][layer]` is a matrix φ(i, j), NaN where a cell is unknown. Matrices have the
paper's names, and layers count from 1.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.results import heatmaps
from lora_jax.results.claims import Claim, share
from lora_jax.results.rows import Row

RANDOM = "random"
MATRICES = {"query": "ΔWq", "key": "ΔWk", "value": "ΔWv", "output": "ΔWo"}
INDICES = (1, 2, 4, 8, 16, 32, 64)  # the i of φ(i, i) that tables show
SHARED = 0.25  # φ(1, 1) of directions whose cosine is 1/2


class Maps(NamedTuple):
    """Similarities of one source, by matrix and layer."""

    source: str  # "ours", "paper"
    width: int  # the dimension of the space that directions lie in
    middle: int  # the layer that is visible alone
    layers: int
    phi: Mapping[str, Mapping[int, Float[np.ndarray, "i j"]]]

    @property
    def trained(self) -> list[Float[np.ndarray, "i j"]]:
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
    phi: dict[str, dict[int, np.ndarray]] = {}
    for row in sorted(rows, key=_matrix_order):
        if row["config"]["comparison"] == RANDOM:
            phi[RANDOM] = {middle: np.array(row["phi"][0])}
            continue
        name = str(row["config"]["matrix"]).rpartition("/")[2]
        by_layer = enumerate(row["phi"], start=1)
        phi[MATRICES.get(name, name)] = {n: np.array(values) for n, values in by_layer}
    return Maps("ours", rows[0]["dimension"], middle, layers, phi)


def published(kind: str) -> Maps:
    """Return the paper's maps: Figures 3 and 6 for "rank", 4 and 7 for "seed"."""
    figures = (
        paper.lora.figure3_and_6() if kind == "rank" else paper.lora.figure4_and_7()
    )
    sizes = (paper.lora.WIDTH, paper.lora.MIDDLE_LAYER, paper.lora.LAYERS)
    return Maps("paper", *sizes, figures)


def middle_layer(kind: str, sources: Sequence[Maps]) -> Figure:
    """Draw Figure 3 or 4 in kind: the middle layer, ours above the paper's."""
    rows = []
    for maps in sources:
        names = maps.phi
        rows.append(
            [_panel(maps, name, maps.middle, _visible_cells(kind)) for name in names]
        )
    if kind == "rank":
        # Figure 3's third and fourth panel; the paper's have not been read.
        first = sources[0]
        for name in first.phi:
            panel = _panel(first, name, first.middle, heatmaps.lower)
            rows[0].append(panel._replace(title=f"{panel.title}, j ≤ i"))
    return heatmaps.grid(rows, label="φ(i, j)")


def all_layers(kind: str, sources: Sequence[Maps]) -> Figure:
    """Draw Figure 6 or 7 in kind: a column for each matrix, a line for each layer."""
    columns = []
    for maps in sources:
        for name, by_layer in maps.phi.items():
            if name != RANDOM:
                layers = sorted(by_layer)
                columns.append(
                    [
                        _panel(maps, name, layer, _visible_cells(kind))
                        for layer in layers
                    ]
                )
    return heatmaps.grid(list(zip_longest(*columns)), label="φ(i, j)")


def similarities(maps: Maps) -> pd.DataFrame:
    """Return φ(i, i) and n for each matrix and layer, their means, and random's."""
    rank = min(len(phi) for phi in _all(maps))
    ranks = [i for i in INDICES if i < rank] + [rank]
    lines = []
    for name, by_layer in maps.phi.items():
        values = [_line(phi, maps.width, ranks) for _, phi in sorted(by_layer.items())]
        if name != RANDOM:
            for layer, line in zip(sorted(by_layer), values, strict=True):
                lines.append([maps.source, name, str(layer), *line])
        lines.append([maps.source, name, "mean", *np.mean(values, axis=0)])
    expected = [i / maps.width for i in ranks]
    lines.append([maps.source, f"expected, d = {maps.width}", "", *expected, 0.0])
    columns = ["source", "matrix", "layer", *[f"φ({i},{i})" for i in ranks], "n"]
    return pd.DataFrame(lines, columns=columns)


def claims(source: str, kind: str, maps: Maps) -> list[Claim]:
    """Return the paper's effects (section 7.2), and how many maps have each."""
    pairs = _query_and_value(maps)
    trained = maps.trained
    top = [phi[0, 0] >= SHARED for phi in trained]
    if kind == "rank":
        tests = {
            "two ranks share the top direction (φ(1,1) >= 0.25)": top,
            "the others are shared less (φ(r,r) < φ(1,1))": [
                phi.diagonal()[-1] < phi[0, 0] for phi in trained
            ],
            "the top direction is shared more by ΔWv than by ΔWq": [
                value[0, 0] > query[0, 0] for query, value in pairs
            ],
        }
    else:
        counts = [_shared(phi, maps.width) for phi in trained]
        random = maps.phi.get(RANDOM, {}).values()
        tests = {
            "two seeds share the top direction (φ(1,1) >= 0.25)": top,
            "they share few in all (0.5 <= n <= r/4)": [
                0.5 <= count <= len(phi) / 4
                for count, phi in zip(counts, trained, strict=True)
            ],
            "they share more of ΔWq than of ΔWv (n)": [
                _shared(query, maps.width) > _shared(value, maps.width)
                for query, value in pairs
            ],
            "random matrices share none (|n| < 0.5)": [
                abs(_shared(phi, maps.width)) < 0.5 for phi in random
            ],
        }
    return [share(source, name, holds) for name, holds in tests.items() if holds]


def cells(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a line for each i of every map, and a column for each j."""
    lines = []
    for row in sorted(rows, key=_row_order):
        config = row["config"]
        fixed = {name: config["left"][name] for name in ("model", "data")}
        for name in ("side", "comparison", "matrix"):
            fixed[name] = config[name]
        for side in ("left", "right"):
            for name in ("rank", "seed"):
                fixed[f"{name}_{side}"] = config[side][name]
        for layer, phi in enumerate(row["phi"], start=1):
            for i, values in enumerate(phi, start=1):
                columns = dict(enumerate(values, start=1))
                lines.append({**fixed, "layer": layer, "i": i, **columns})
    table = pd.DataFrame(lines)
    return table.rename(columns=str)


def _query_and_value(maps: Maps) -> list[tuple[np.ndarray, np.ndarray]]:
    """The maps of both matrices, of the layers that have both."""
    query = maps.phi.get("ΔWq", {})
    value = maps.phi.get("ΔWv", {})
    return [(query[layer], value[layer]) for layer in query if layer in value]


def _shared(phi: Float[np.ndarray, "r s"], width: int) -> float:
    """n = r (φ(r, r) - r / d), see `analysis.shared_directions`."""
    rank = len(phi)
    return rank * (phi.diagonal()[-1] - rank / width)


def _line(
    phi: Float[np.ndarray, "r s"], width: int, ranks: Sequence[int]
) -> list[float]:
    diagonal = phi.diagonal()
    return [*[diagonal[i - 1] for i in ranks], _shared(phi, width)]


def _all(maps: Maps) -> list[np.ndarray]:
    values = list(maps.trained)
    values += maps.phi.get(RANDOM, {}).values()
    return values


def _visible_cells(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Between two ranks the paper leaves the cells with j < i white."""
    return heatmaps.upper if kind == "rank" else np.asarray


def _panel(
    maps: Maps, name: str, layer: int, visible: Callable[[np.ndarray], np.ndarray]
) -> heatmaps.Panel:
    place = "" if name == RANDOM else f", layer {layer}/{maps.layers}"
    return heatmaps.Panel(
        f"{maps.source}: {name}{place}", visible(maps.phi[name][layer])
    )


def _matrix_order(row: Row) -> tuple:
    """Trained matrices by path, random ones last."""
    return row["config"]["comparison"] == RANDOM, row["config"]["matrix"]


def _row_order(row: Row) -> tuple:
    config = row["config"]
    return config["side"], config["comparison"], config["matrix"], row["key"]
