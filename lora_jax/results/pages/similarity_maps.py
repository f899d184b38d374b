"""Maps of subspace similarity, ours and the paper's, and their tables.

`phi[matrix][layer]` is a matrix φ(i, j), NaN where a cell is unknown. Matrices have the
paper's names, and layers count from 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from lora_jax import paper
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
    ordered = sorted(rows, key=_matrix_order)
    for row in ordered:
        config = row["config"]
        comparison = config["comparison"]
        # Random matrices have no layer: one map stands for all.
        if comparison == RANDOM:
            first = row["phi"][0]
            phi[RANDOM] = {middle: np.array(first)}
            continue
        path = str(config["matrix"])
        _, _, name = path.rpartition("/")
        by_layer = {}
        for layer, values in enumerate(row["phi"], start=1):
            by_layer[layer] = np.array(values)  # [i, j]
        printed = MATRICES.get(name, name)
        phi[printed] = by_layer
    # Of one comparison all matrices have one width.
    width = rows[0]["dimension"]
    return Maps("ours", width, middle, layers, phi)


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
    ordered = sorted(rows, key=_row_order)
    for row in ordered:
        fixed = _fixed_columns(row["config"])
        for layer, phi in enumerate(row["phi"], start=1):
            fixed["layer"] = layer
            for i, values in enumerate(phi, start=1):
                fixed["i"] = i
                # A column for each j, which counts from 1 too.
                columns = enumerate(values, start=1)
                line = fixed | dict(columns)
                lines.append(line)
    table = pd.DataFrame(lines)
    # The columns of j are numbers as yet.
    return table.rename(columns=str)


def _fixed_columns(config: Mapping) -> dict[str, Any]:
    """What is compared, the same for all cells of a row."""
    # Both sides have the same model and data.
    left = config["left"]
    fixed = {
        "model": left["model"],
        "data": left["data"],
    }
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
    all_maps = list(maps.trained)
    all_maps += random.values()
    rank = min(map(len, all_maps))
    ranks = []
    # The lowest rank itself comes last, whatever it is.
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
        similarity = diagonal[i - 1]
        numbers.append(similarity)
    n = shared_directions(phi, width)
    numbers.append(n)
    return numbers


def _matrix_order(row: Row) -> tuple:
    """Trained matrices by path, random ones last."""
    config = row["config"]
    comparison = config["comparison"]
    matrix = config["matrix"]
    return comparison == RANDOM, matrix


def _row_order(row: Row) -> tuple:
    config = row["config"]
    side = config["side"]
    comparison = config["comparison"]
    matrix = config["matrix"]
    return side, comparison, matrix, row["key"]
