"""The page of LoRA's Table 7 and Figure 8: what ΔW amplifies of W.

A row is of one matrix and rank, and has the numbers of all its layers, which count from
1. All norms are Frobenius norms. Similarities φ go from 0 to 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.results import claims, heatmaps, report
from lora_jax.results.agreement import Comparison
from lora_jax.results.claims import Claim
from lora_jax.results.grouping import Group
from lora_jax.results.report import Block
from lora_jax.results.rows import Row
from lora_jax.results.tables import table as text_table

SOURCE = "LoRA Table 7"
FIGURE8 = "LoRA Figure 8"
# The paper's names of our matrices.
MATRICES = {"query": "Wq", "key": "Wk", "value": "Wv", "output": "Wo"}
# Our metric, then its title.
COLUMNS = {
    "of_delta": "W in ΔW's",
    "of_w": "W in its own",
    "of_random": "W in random",
    "delta": "‖ΔW‖",
    "w": "‖W‖",
    "factor": "factor",
}
BARE = "factor without α/r"
LOW = 0.25  # φ of directions whose cosine is 1/2

# Another machine rounds otherwise while it trains; one seed has no error.
COMPARISON = Comparison(
    by=("model", "data", "settings", "matrix", "r", "layer"),
    value="factor",
    error="",
    relative=0.05,
)

Tests = dict[str, Iterable[bool]]
"""Statements, and whether each holds in each of our lines."""


def table7(group: Group) -> pd.DataFrame:
    """Return a line for each matrix, rank and layer, with the factor with and without α/r.

    The last columns say of which model, data, seed and settings it is.
    """
    lines = []
    ordered = sorted(group.rows, key=_matrix_and_rank)
    for row in ordered:
        # Every layer has its own similarities.
        for layer in range(1, len(row["phi"]) + 1):
            lines.append(_line(row, layer))
    table = pd.DataFrame(lines)
    for name in ("model", "data", "seed"):
        table[name] = group.settings[name]
    return table.assign(settings=group.difference)


def _line(row: Row, layer: int) -> dict[str, Any]:
    config = row["config"]
    rank = config["rank"]
    line = {
        "whose": "ours",
        "matrix": _short(config["matrix"]),
        "r": rank,
        "layer": layer,
    }
    metrics = row["metrics"]
    for name, title in COLUMNS.items():
        line[title] = metrics[f"layer{layer}/{name}"]
    # rsLoRA divides by the root of the rank.
    divisor = rank**0.5 if config["rank_stabilized"] else rank
    line[BARE] = line["factor"] * divisor / config["alpha"]
    return line


def published() -> pd.DataFrame:
    """Return the paper's Table 7 with the columns of ours; α is not known."""
    titles = {"rank": "r", **COLUMNS}
    table = paper.lora.table7().rename(columns=titles)
    # `query` is Wq here, as in our lines.
    table["matrix"] = table["matrix"].map(_short)
    table.insert(0, "whose", "paper")
    table[BARE] = np.nan
    return table


def blocks(group: Group, table: pd.DataFrame) -> list[Block]:
    """Return what a section shows: the middle layer beside the paper's, the settings."""
    middle = _middle_layer(table["layer"].max())
    theirs = published()
    # Without what is the same in all lines.
    lines = table.loc[table["layer"] == middle, list(theirs)]
    beside = pd.concat([lines, theirs], ignore_index=True)
    return [
        *report.warning(group),
        "The middle layer, and the paper's:",
        text_table(beside, digits=3),
        report.settings(group),
    ]


def table7_claims(table: pd.DataFrame, rows: Sequence[Row]) -> list[Claim]:
    """Return the effects of Table 7 and Figure 8, each with how many lines have it.

    `rows` are those that the table is of; they have the similarities of Figure 8.
    """
    tests = _subspace_tests(table)
    tests |= _amplification_tests(table)
    tests |= _rank_tests(table)
    # The bounds were chosen with the paper's values in sight.
    result = []
    for source, by_statement in ((SOURCE, tests), (FIGURE8, _figure8_tests(rows))):
        for statement, holds in by_statement.items():
            result.append(claims.share(source, statement, list(holds)))
    return result


def _subspace_tests(table: pd.DataFrame) -> Tests:
    """What of W lies in ΔW's directions, for each line."""
    # Norms of W's projections, see `analysis.Parts`.
    inside = table["W in ΔW's"]
    in_random = table["W in random"]
    in_own = table["W in its own"]
    return {
        "ΔW's directions hold more than twice as much of W as random ones": (
            inside > 2 * in_random
        ),
        "ΔW's directions hold less than half of what W's own hold": (
            inside < in_own / 2
        ),
    }


def _amplification_tests(table: pd.DataFrame) -> Tests:
    """Whether ΔW amplifies, for each matrix and layer."""
    low, high = _lowest_and_highest(table)
    return {
        # The paper's are 21.5 at r = 4 and 1.88 at r = 64.
        "ΔW amplifies (factor > 1) at the lowest r": low["factor"] > 1,
        "ΔW amplifies (factor > 1) at the highest r": high["factor"] > 1,
    }


def _figure8_tests(rows: Sequence[Row]) -> Tests:
    """Whether A's directions are among W's, for each row and layer."""
    holds = []
    for row in rows:
        first, _ = paper.lora.figure8_range(row["dimension"])
        for phi in row["phi"]:
            # i counts from 1.
            in_range = phi[first - 1 :]
            highest = np.max(in_range)
            holds.append(highest <= LOW)
    return {"A's top 4 directions are hardly in W's top 10 % (φ <= 0.25)": holds}


def _rank_tests(table: pd.DataFrame) -> Tests:
    """Whether a low rank amplifies more than a high one, for each matrix and layer."""
    low, high = _lowest_and_highest(table)
    # While rows are missing, a matrix may have one rank alone.
    shared = low.index.intersection(high.index)
    if table["r"].nunique() == 1 or shared.empty:
        return {}
    low = low.loc[shared]
    high = high.loc[shared]
    statement = "the lowest r amplifies more than twice as much as the highest"
    return {
        statement: low["factor"] > 2 * high["factor"],
        f"{statement}, without α/r too": low[BARE] > 2 * high[BARE],
    }


def _lowest_and_highest(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The lines of the lowest rank and of the highest, by matrix and layer."""
    lines = table.set_index(["matrix", "layer"])
    ranks = lines["r"]
    low = lines[ranks == ranks.min()]
    high = lines[ranks == ranks.max()]
    return low, high


def figure8(rows: Sequence[Row]) -> Figure:
    """Draw Figure 8: W's top directions against A's for each rank, and random ones.

    Ours are of the middle layer, a line for each matrix, above the paper's of Wq.
    """
    by_matrix: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_matrix_and_rank):
        by_matrix.setdefault(row["config"]["matrix"], []).append(row)
    lines = [_our_panels(matrix, drawn) for matrix, drawn in by_matrix.items()]
    return heatmaps.grid([*lines, _paper_panels()], label="φ(W, A, i, j)")


def _our_panels(matrix: str, drawn: Sequence[Row]) -> list[heatmaps.Panel]:
    """The maps of one matrix, in order of the rank, and of random directions."""
    maps = {}
    for row in drawn:
        rank = row["config"]["rank"]
        maps[f"r = {rank}"] = row["phi"]
    # As many random directions as the highest rank has.
    highest = drawn[-1]
    maps["random"] = highest["phi_random"]
    first, last = paper.lora.figure8_range(highest["dimension"])
    panels = []
    for name, phi in maps.items():
        layers = len(phi)
        middle = _middle_layer(layers)
        # The directions before the first are in the row, but not in the figure.
        values = np.array(phi[middle - 1])
        values = values[first - 1 :]
        title = f"ours: {_short(matrix)}, {name}, layer {middle}/{layers}"
        panels.append(heatmaps.Panel(title, values, first, last))
    return panels


def _paper_panels() -> list[heatmaps.Panel]:
    first, last = paper.lora.FIGURE8_ROWS
    layer = f"layer {paper.lora.MIDDLE_LAYER}/{paper.lora.LAYERS}"
    panels = []
    for name, phi in paper.lora.figure8().items():
        title = f"paper: Wq, {name}, {layer}"
        panels.append(heatmaps.Panel(title, phi, first, last))
    return panels


def _middle_layer(layers: int) -> int:
    # The paper's is the 48th of 96.
    return max(1, layers // 2)


def _matrix_and_rank(row: Row) -> tuple:
    """Sorts rows as Table 7 has them; the query's matrix first."""
    config = row["config"]
    path = config["matrix"]
    rank = config["rank"]
    return not path.endswith("query"), path, rank


def _short(path: str) -> str:
    """`blocks/attention/query` as the paper calls it: `Wq`."""
    name = path.rpartition("/")[2]
    return MATRICES.get(name, name)
