"""LoRA Table 7 and Figure 8: which directions of W does ΔW amplify, and how much?

Takes adapters of several ranks and, for every matrix and layer, projects W on the directions of ΔW, on its own top r and on random
ones; the amplification factor is ‖ΔW‖ over the first. And it compares A's directions with W's. Paper: Hu et al. 2021
(arXiv 2106.09685v2), section 7.3 and appendix H.4: W_q of GPT-3 175B, layer 48 of 96, r = 4 and 64. Ours is a sentence encoder:
what can be compared is whether the effects are there.
Two cores: 45 s for each training that is missing, then half a minute.

    python experiments/amplification.py                     # quick: takes the adapters rank_sweep kept, trains the others
    python experiments/amplification.py --preset full       # all rows
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tyro.conf import OmitArgPrefixes

from lora_jax import analysis, methods, paper, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import heatmaps
from lora_jax.results.claims import Verdict

NAME = "amplification"


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows."""
    out: Path = Path("results")
    """Folder of the rows, of what is drawn from them, and of the adapters."""
    dry_run: bool = False
    """Only say what would be measured."""
    targets: str = "query,value"
    """Matrices to adapt: names joined by commas, or a regex on paths."""
    ranks: tuple[int, ...] = (4, 8, 64)
    seed: int = 0
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), ranks=(2, 4), setup=run.SMOKE),
    "quick": Config(),
    "full": Config("full", setup=replace(run.SETUP, rows=0, validation_rows=0)),
}


def cells(config: Config) -> list[schedule.Row]:
    """One training for each rank."""
    fixed = {**asdict(config.setup), "targets": config.targets, "seed": config.seed}
    return schedule.resolved({**fixed, "rank": rank} for rank in config.ranks)


def matrices(cell: schedule.Row) -> list[str]:
    """The paths of the layers the cell adapts; raises ValueError when the method has no low-rank factors."""
    found = {
        path: layer.factors()[0]
        for path, layer in analysis.low_rank_layers(run.adapt(cell)[0]).items()
        if hasattr(layer.base, "kernel")
    }
    if not found:
        raise ValueError(
            f"method: expected low-rank adapters, as lora's, got {cell['method']}"
        )
    if others := [path for path, a in found.items() if a.ndim != 3]:
        raise ValueError(
            f"targets: expected matrices that every block has, got also {', '.join(others)}"
        )
    return list(found)


def label(cell: schedule.Row) -> str:
    """The training in a line of progress."""
    return f"{cell['data']} {cell['targets']} r={cell['rank']} seed={cell['seed']}"


TOP, PAPER_WIDTH, SHOWN = (
    4,
    12288,
    (400, 1273),
)  # Figure 8: j up to 4, d, and the i there are


def measure(config: schedule.Row, layer: Any) -> schedule.Row:
    """The row of one adapted matrix: Table 7's numbers for each of its layers, and W's directions beside A's."""
    numbers = analysis.layer_amplification(layer)
    if not np.isfinite(numbers["factor"]).all():
        raise ValueError(
            f"expected a training that changes {config['matrix']}; ΔW is zero: is the learning rate too low?"
        )
    metrics = {
        f"layer{n}/{name}": at
        for name, value in numbers.items()
        for n, at in enumerate(value.tolist(), start=1)
    }
    a, _ = layer.factors()
    random = jax.random.normal(jax.random.key(config["seed"]), a.shape)
    phi, baseline = (
        analysis.kernel_similarity(layer, x)[..., : shown(a.shape[-2])[1], :TOP]
        for x in (a, random)
    )
    maps = {
        name: np.asarray(x, float).round(4).tolist()
        for name, x in (("phi", phi), ("phi_random", baseline))
    }
    return {
        "config": config,
        "metrics": metrics,
        "dimension": a.shape[-2],
        **maps,
        "provenance": run.began(),
    }


def shown(d: int) -> tuple[int, int]:
    """The first and the last i of Figure 8 at another width: W's directions from 3 % to 10 % of all."""
    first, last = (max(1, round(i * d / PAPER_WIDTH)) for i in SHOWN)
    return first, last


ON_W = "||U^T W_q V^T||_F"
COLUMNS = {  # ours: its title; the quantity and the subspace of it in the paper's Table 7
    "of_delta": ("W in ΔW's", ON_W, "Delta W_q"),
    "of_w": ("W in its own", ON_W, "W_q"),
    "of_random": ("W in random", ON_W, "Random"),
    "delta": ("‖ΔW‖", "||Delta W_q||_F", "Delta W_q"),
    "w": ("‖W‖", "||W_q||_F", "W_q"),
    "factor": ("factor", "amplification ||dW||_F/||U^T W V^T||_F", "Delta W_q"),
}
BARE = "factor without α/r"

NAMES = {"query": "Wq", "key": "Wk", "value": "Wv", "output": "Wo"}


def short(path: str) -> str:
    """The paper's name of the matrix at a path, or else the layer's own."""
    return NAMES.get(path.split("/")[-1], path.split("/")[-1])


def table7(group: Sequence[schedule.Row]) -> pd.DataFrame:
    """A line for each matrix, rank and layer: ‖UᵀWV‖ in three subspaces, the norms, the factor with and without alpha/r."""
    lines = []
    for row in sorted(
        group, key=lambda row: (row["config"]["matrix"], row["config"]["rank"])
    ):
        config, rank = row["config"], row["config"]["rank"]
        scale = config["alpha"] / (rank**0.5 if config["rank_stabilized"] else rank)
        for n in range(1, len(row["phi"]) + 1):
            said = {
                title: row["metrics"][f"layer{n}/{name}"]
                for name, (title, *_) in COLUMNS.items()
            }
            fixed = {
                "whose": "ours",
                "matrix": short(config["matrix"]),
                "r": rank,
                "layer": n,
            }
            lines.append({**fixed, **said, BARE: said["factor"] / scale})
    return pd.DataFrame(lines)


def published() -> pd.DataFrame:
    """The paper's Table 7 in the same columns."""
    table: Any = paper.table("lora_table7_amplification")
    lines = []
    for r in (4, 64):
        value = (
            table[(table.r == r) | table.r.isna()]
            .set_index(["quantity", "subspace_from"])
            .value
        )
        said = {
            title: value[quantity, subspace]
            for title, quantity, subspace in COLUMNS.values()
        }
        lines.append(
            {
                "whose": "paper",
                "matrix": "Wq",
                "r": r,
                "layer": 48,
                **said,
                BARE: np.nan,
            }
        )
    return pd.DataFrame(lines)


IN_PAPER = {"A_r=4": "r = 4", "A_r=8": "r = 8", "A_r=64": "r = 64", "A_rand": "random"}


def published_maps() -> dict[str, np.ndarray]:
    """The paper's Figure 8 as read from its colours: [i, j] for r = 4, 8, 64 and random."""
    table: Any = paper.table("figures/lora_fig8_phi_Wq_vs_dWq_layer48")
    maps = {
        name: cells.pivot(index="i_Wq", columns="j_dWq", values="phi")
        for name, cells in table.groupby("dWq_from")
    }
    return {title: maps[name].to_numpy() for name, title in IN_PAPER.items()}


def middle(row: schedule.Row) -> int:
    """The layer that is shown: the paper's is the 48th of 96."""
    return max(1, len(row["phi"]) // 2)


def figure(group: Sequence[schedule.Row]) -> Figure:
    """Figure 8 in kind: W's directions against A's for each rank, and against random ones; ours above the paper's."""
    matrix = min(
        (row["config"]["matrix"] for row in group),
        key=lambda path: (not path.endswith("query"), path),
    )
    rows = sorted(
        (row for row in group if row["config"]["matrix"] == matrix),
        key=lambda row: row["config"]["rank"],
    )
    first, last = shown(rows[0]["dimension"])
    maps = {f"r = {row['config']['rank']}": row["phi"] for row in rows} | {
        "random": rows[-1]["phi_random"]
    }
    n, layers = middle(rows[0]), len(rows[0]["phi"])
    ours = [
        heatmaps.Panel(
            f"ours: {name}, layer {n}/{layers}",
            np.array(phi[n - 1])[first - 1 :],
            first,
            last,
        )
        for name, phi in maps.items()
    ]
    theirs = [
        heatmaps.Panel(f"paper: {name}, layer 48/96", phi, *SHOWN)
        for name, phi in published_maps().items()
    ]
    return heatmaps.grid([ours, theirs], label=f"φ({short(matrix)}, A, i, j)")


def effects(
    table: pd.DataFrame, highest: Sequence[float]
) -> list[tuple[str, str, str]]:
    """The paper's effects (section 7.3, H.4), the test each is put to here, and in how many of the matrices it holds.

    highest: the highest of each map between W's top 10 % of directions and A's top 4.
    """
    low, high = (
        table[table.r == r].set_index(["matrix", "layer"])
        for r in (table.r.min(), table.r.max())
    )
    both = low[low.r < table.r.max()].merge(
        high, left_index=True, right_index=True, suffixes=("", " high")
    )
    bare = both.dropna(subset=[BARE])
    own, top, chance = (
        table[title] for title in ("W in ΔW's", "W in its own", "W in random")
    )
    tests = [
        (
            "ΔW's directions hold more of W than random ones",
            "W in ΔW's > twice W in random",
            own > 2 * chance,
        ),
        (
            "ΔW's directions hold much less than W's own",
            "W in ΔW's < half of W in its own",
            own < top / 2,
        ),
        ("ΔW amplifies at the lowest r", "factor > 1", low.factor > 1),
        ("ΔW amplifies at the highest r", "factor > 1", high.factor > 1),
        (
            "the lowest r amplifies more",
            "factor > twice that of the highest r",
            both.factor > 2 * both["factor high"],
        ),
        (
            "the lowest r amplifies more without α/r too",
            "the same without α/r",
            bare[BARE] > 2 * bare[f"{BARE} high"],
        ),
        (
            "A's top 4 directions are hardly in W's top 10 %",
            "φ <= 0.25 in Figure 8's range",
            np.array(highest) <= 0.25,
        ),
    ]
    counts = [(name, test, sum(holds), len(holds)) for name, test, holds in tests]
    said = [
        f"{'there' if 2 * k > n else 'absent'}, {k} of {n}" if n else ""
        for *_, k, n in counts
    ]
    return [
        (name, test, held) for (name, test, *_), held in zip(tests, said, strict=True)
    ]


def found(group: Sequence[schedule.Row]) -> list[tuple[str, str, str, str]]:
    """The effects in our rows and, put to the same tests, in the paper's numbers: there, if in more than half of them."""
    highest = [
        np.max(phi[shown(row["dimension"])[0] - 1 :])
        for row in group
        for phi in row["phi"]
    ]
    theirs = [phi.max() for name, phi in published_maps().items() if name != "random"]
    pairs = zip(
        effects(table7(group), highest), effects(published(), theirs), strict=True
    )
    return [(*ours, paper) for ours, (*_, paper) in pairs]


def verdicts(rows: Sequence[schedule.Row]) -> list[Verdict]:
    """The effects that the paper has, in how many of our matrices, layers and ranks each holds."""
    made = []
    for name, _, ours, theirs in found(
        schedule.groups(rows, but=("rank", "matrix"))[0]
    ):
        word, _, times = ours.partition(", ")
        if ours and not theirs and made:  # a control of the effect before it
            made[-1] = made[-1]._replace(ours=f"{made[-1].ours}; without α/r {times}")
        elif ours:
            made.append(
                Verdict(
                    "LoRA Table 7, Figure 8",
                    name,
                    times,
                    {"there": "seen", "absent": "not seen"}[word],
                )
            )
    return made


def beside_the_paper(group: Sequence[schedule.Row]) -> str:
    """The table of effects, and in words which are there."""
    made = pd.DataFrame(
        found(group), columns=pd.Index(["effect", "test", "ours", "paper"])
    )
    there, absent = (
        "; ".join(made.effect[made.ours.str.startswith(word)]) or "none"
        for word in ("there", "absent")
    )
    return f"{results.markdown(made)}\nThere in ours: {there}. Absent: {absent}.\n"


HEADER = """# Amplification

Which directions of W does ΔW amplify, and how much? LoRA's Table 7 and Figure 8, made by `python experiments/amplification.py` from
the rows of `amplification.jsonl`; all matrices and layers are in the `.csv`.

With U and V the left- and right-singular vectors of ΔW, ‖UᵀWV‖ is what W has in ΔW's directions, and ‖ΔW‖ / ‖UᵀWV‖ the
amplification factor (section 7.3; all norms are Frobenius). Beside it U and V of W's own top r directions, and random ones.
The paper does not say whether its ΔW includes α/r: here it does, as ΔW is added to W; the last column leaves it out.
Figure 8 compares the top directions of W with those of A, φ(W, A, i, j): max(i, j)/d is expected of random ones. The paper's map is
read from its colours, and its axis i is not certain. Its numbers are of GPT-3 175B: **compare the effects, not the values**. Layers
count from 1; an effect is there if its test holds in more than half of the matrices, layers and ranks. The tests' bounds were
chosen with the paper's values in sight, so that those pass.
"""


def section(group: Sequence[schedule.Row], apart: str) -> str:
    """The tables of one group of rows: everything but rank and matrix alike."""
    config, table = group[0]["config"], table7(group)
    beside = pd.concat(
        [table.query(f"layer == {middle(group[0])}"), published()], ignore_index=True
    )
    settings = ", ".join(
        f"{k} {v}"
        for k, v in config.items()
        if k not in ("rank", "matrix", "data_source")
    )
    smoke = (
        "**A smoke run of a random model: its numbers mean nothing.**\n\n"
        if config["model"] == "tiny"
        else ""
    )
    return (
        f"## {config['model']}, {config['data']}{apart}\n\n{smoke}{beside_the_paper(group)}\nThe middle layer, and the paper's:\n\n"
        f"{results.markdown(beside, digits=3)}\n"
        f"<details><summary>Settings</summary>\n\n{settings}\n\nData: {config['data_source']}\n\n</details>\n"
    )


def render(rows: Sequence[schedule.Row], out: Path) -> list[Path]:
    """Draw out/amplification.md, .csv and .png from the rows alone."""
    groups = schedule.groups(rows, but=("rank", "matrix"))
    said, names = schedule.apart(groups), ("model", "data", "seed")
    text = "\n".join(
        [
            HEADER,
            *map(section, groups, said),
            "![Figure 8 in kind](amplification.png)\n",
        ]
    )
    tables = [
        table7(group).assign(**{name: group[0]["config"][name] for name in names})
        for group in groups
    ]
    tables = [
        table.assign(settings=of[2:]) if of else table
        for table, of in zip(tables, said, strict=True)
    ]
    return results.render(
        out / NAME,
        markdown=text,
        table=pd.concat([*tables, published()]),
        figure=figure(groups[0]),
    )


def measured(missing: Sequence[schedule.Row], out: Path) -> Iterator[schedule.Row]:
    """The rows, one after another; trainings without a kept adapter are done first."""
    trainings = trained_by(missing)
    models = [
        methods.adapters(one.model) for one in schedule.trained(out, trainings, label)
    ]
    for cell, layers in zip(trainings, models, strict=True):
        yield from (
            measure(config, layers[config["matrix"]])
            for config in missing
            if trained_by([config]) == [cell]
        )


def trained_by(rows: Sequence[schedule.Row]) -> list[schedule.Row]:
    """The trainings that rows measure, each once."""
    found = [
        {name: value for name, value in row.items() if name != "matrix"} for row in rows
    ]
    return list({results.key(cell): cell for cell in found}.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and draw everything."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path = config.out / f"{NAME}.jsonl"
    wanted = [
        {**cell, "matrix": matrix}
        for cell in cells(config)
        for matrix in matrices(cell)
    ]
    missing = results.pending(path, wanted)
    trainings = "; ".join(map(label, trained_by(missing))) or "none"
    print(
        f"{len(missing)} of {len(wanted)} matrices to measure: {trainings}", flush=True
    )
    if config.dry_run:
        return
    for row in measured(missing, config.out) if missing else ():
        results.record(path, row)
    print(
        "wrote", *(str(written) for written in render(results.read(path), config.out))
    )


if __name__ == "__main__":
    cli.script(main)
