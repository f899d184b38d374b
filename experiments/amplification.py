"""LoRA Table 7 and Figure 8: which directions of W does ΔW amplify, and by how much?

With U and V the left and right singular vectors of ΔW, ‖UᵀWV‖ is what W has in ΔW's
directions, and ‖ΔW‖ / ‖UᵀWV‖ the amplification factor (Hu et al. 2021, arXiv
2106.09685v2, section 7.3; all norms are Frobenius). Beside it stand W in its own top r
directions and in random ones. The paper does not say whether its ΔW includes α/r: here
it does, as ΔW is added to W; the last column leaves it out. Figure 8 (appendix H.4)
compares the top directions of W with those of A; max(i, j)/d is expected of random ones.
The paper's map is read from its colors, and its axis i is not certain.

The paper has W_q of GPT-3 175B, layer 48 of 96. Ours is a sentence encoder: **compare
the effects, not the values**. Layers count from 1. An effect is reproduced if its test
holds in more than half of our matrices, layers and ranks; the bounds of the tests were
chosen with the paper's values in sight, so that those pass.

    python experiments/amplification.py                  # takes rank_sweep's adapters
    python experiments/amplification.py --preset full    # all rows
"""

from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd

from lora_jax import analysis, paper, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets
from lora_jax.experiment.matrices import stacked_matrices
from lora_jax.results import (
    Claim,
    Comparison,
    Report,
    Section,
    claims,
    heatmaps,
    report,
)

SOURCE = "LoRA Table 7"
TOP = 4  # Figure 8's directions of A
BARE = "factor without α/r"
MATRICES = {"query": "Wq", "key": "Wk", "value": "Wv", "output": "Wo"}
COLUMNS = {  # our metric: its title
    "of_delta": "W in ΔW's",
    "of_w": "W in its own",
    "of_random": "W in random",
    "delta": "‖ΔW‖",
    "w": "‖W‖",
    "factor": "factor",
}


@dataclass(frozen=True)
class Options:
    targets: str = "query,value"
    """Matrices to adapt: names joined by commas, or a regex on paths."""
    ranks: tuple[int, ...] = (4, 8, 64)
    """Ranks of the update."""


PRESETS = {
    "smoke": (Options(ranks=(2, 4)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(), presets.FULL),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    items = []
    for run in grid(base, targets=[options.targets], rank=options.ranks):
        for path in stacked_matrices(run, benches):
            items.append(Measurement((run,), {"matrix": path}, measure))
    return items


def measure(trained, settings):
    layers = analysis.low_rank_layers(trained[0].model)
    seed = trained[0].bench.run.seed
    for setting in settings:
        layer = layers[setting["matrix"]]
        numbers = analysis.layer_amplification(layer)
        if not np.isfinite(numbers["factor"]).all():
            raise ValueError(
                f"expected a training that changes {setting['matrix']}; ΔW is zero: is "
                "the learning rate too low?"
            )
        a, _ = layer.factors()
        width = a.shape[-2]
        random = jax.random.normal(jax.random.key(seed), a.shape)
        yield {
            "metrics": analysis.metrics_by_layer(numbers),
            "dimension": width,
            "phi": top_similarity(layer, a),
            "phi_random": top_similarity(layer, random),
        }


def top_similarity(layer, directions) -> list:
    """φ[layer][i][j] with the i that Figure 8 shows, and those before them."""
    last = paper.lora.figure8_range(directions.shape[-2])[1]
    phi = analysis.kernel_similarity(layer, directions)[..., :last, :TOP]
    return np.asarray(phi, float).round(4).tolist()


def show(rows: list) -> Report:
    sections = []
    tables = []
    groups = results.groups(rows, axes=("rank", "matrix"))
    for group in groups:
        table = table7(group)
        middle = max(1, table.layer.max() // 2)  # the paper's is the 48th of 96
        lines = table[table.layer == middle]
        beside = pd.concat([lines, published()], ignore_index=True)
        sections.append(
            Section(
                group.name,
                [
                    *report.warning(group),
                    "The middle layer, and the paper's:",
                    results.table(beside, digits=3),
                    report.settings(group),
                ],
            )
        )
        names = {name: group.settings[name] for name in ("model", "data", "seed")}
        tables.append(table.assign(**names, settings=group.difference))
    return Report(
        title="Amplification",
        intro=__doc__,
        sections=sections,
        claims=table7_claims(tables[0], groups[0].rows),
        data=pd.concat([*tables, published()]),
        figures={"": figure8(groups[0].rows)},
        comparison=Comparison(
            by=("model", "data", "matrix", "r", "layer"),
            value="factor",
            error="",
            relative=0.05,
        ),
    )


def table7(group: results.Group) -> pd.DataFrame:
    """A line for each matrix, rank and layer, with the factor with and without α/r."""
    lines = []
    for row in sorted(group.rows, key=matrix_and_rank):
        config = row["config"]
        rank = config["rank"]
        divisor = rank**0.5 if config["rank_stabilized"] else rank
        for layer in range(1, len(row["phi"]) + 1):
            line = {"whose": "ours", "matrix": short(config["matrix"]), "r": rank}
            line["layer"] = layer
            for name, title in COLUMNS.items():
                line[title] = row["metrics"][f"layer{layer}/{name}"]
            line[BARE] = line["factor"] * divisor / config["alpha"]
            lines.append(line)
    return pd.DataFrame(lines)


def published() -> pd.DataFrame:
    table = paper.lora.table7().rename(columns={"rank": "r", **COLUMNS})
    table["matrix"] = table.matrix.map(short)
    table.insert(0, "whose", "paper")
    return table.assign(**{BARE: np.nan})


def matrix_and_rank(row) -> tuple:
    """Sorts rows as Table 7 has them; the query's matrix first."""
    path = row["config"]["matrix"]
    return not path.endswith("query"), path, row["config"]["rank"]


def short(path: str) -> str:
    name = path.split("/")[-1]
    return MATRICES.get(name, name)


def table7_claims(table: pd.DataFrame, rows: list) -> list[Claim]:
    inside = table["W in ΔW's"]
    low = table[table.r == table.r.min()].set_index(["matrix", "layer"])
    high = table[table.r == table.r.max()].set_index(["matrix", "layer"])
    tops = [highest_similarity(row, layer) for row in rows for layer in row["phi"]]
    tests = {
        "ΔW's directions hold more than twice as much of W as random ones": (
            inside > 2 * table["W in random"]
        ),
        "ΔW's directions hold less than half of what W's own hold": (
            inside < table["W in its own"] / 2
        ),
        "ΔW amplifies (factor > 1) at the lowest r": low.factor > 1,
        "ΔW amplifies (factor > 1) at the highest r": high.factor > 1,
        "A's top 4 directions are hardly in W's top 10 % (φ <= 0.25)": (
            np.array(tops) <= 0.25
        ),
    }
    if table.r.nunique() > 1:
        factors = low.factor > 2 * high.factor
        tests["the lowest r amplifies more than twice as much as the highest"] = factors
        tests["… and without α/r too"] = low[BARE] > 2 * high[BARE]
    return [claims.share(SOURCE, name, list(holds)) for name, holds in tests.items()]


def highest_similarity(row, phi) -> float:
    """The highest φ in Figure 8's range of one layer."""
    first, _ = paper.lora.figure8_range(row["dimension"])
    return float(np.max(phi[first - 1 :]))


def figure8(rows: list):
    """W's directions against A's for each rank and random ones; ours, the paper's."""
    ordered = sorted(rows, key=matrix_and_rank)
    matrix = ordered[0]["config"]["matrix"]
    chosen = [row for row in ordered if row["config"]["matrix"] == matrix]
    maps = {f"r = {row['config']['rank']}": row["phi"] for row in chosen}
    maps["random"] = chosen[-1]["phi_random"]
    layers = len(chosen[0]["phi"])
    middle = max(1, layers // 2)
    first, last = paper.lora.figure8_range(chosen[0]["dimension"])
    ours = []
    for name, phi in maps.items():
        values = np.array(phi[middle - 1])[first - 1 :]
        title = f"ours: {name}, layer {middle}/{layers}"
        ours.append(heatmaps.Panel(title, values, first, last))
    theirs = []
    for name, phi in paper.lora.figure8().items():
        title = f"paper: {name}, layer 48/96"
        theirs.append(heatmaps.Panel(title, phi, *paper.lora.FIGURE8_ROWS))
    return heatmaps.grid([ours, theirs], label=f"φ({short(matrix)}, A, i, j)")


EXPERIMENT = Experiment(
    "amplification", PRESETS, measurements, show, description=__doc__, keep=True
)

if __name__ == "__main__":
    EXPERIMENT.script()
