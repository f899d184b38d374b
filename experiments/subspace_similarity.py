"""LoRA Figures 3, 4, 6, 7: do two ranks, or two seeds, learn the same directions?

Compares the input directions (A's, by its SVD) of every adapted matrix and layer between r = 8 and r = 64, between two seeds at
r = 64, and between two random Gaussian matrices. Paper: Hu et al. 2021 (arXiv 2106.09685v2), section 7.2 and appendices G and
H.3: GPT-3 175B, layers 1, 32, 48, 64, 96 of 96. Ours is a sentence encoder: what can be compared is whether its effects are there.
Two cores: 45 s for each training that is missing, then half a minute.

    python experiments/subspace_similarity.py                     # quick: takes the adapters rank_sweep kept, trains the others
    python experiments/subspace_similarity.py --side output       # B's directions (the paper's footnote 7), a section of its own
    python experiments/subspace_similarity.py --preset full       # all rows
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from tyro.conf import OmitArgPrefixes

from lora_jax import analysis, methods, paper, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import heatmaps
from lora_jax.results.claims import Verdict

NAME = "subspace_similarity"


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows."""
    out: Path = Path("results")
    """Folder of the rows, of what is drawn from them, and of the adapters."""
    dry_run: bool = False
    """Only say what would be compared."""
    targets: str = "query,value"
    """Matrices to adapt: names joined by commas, or a regex on paths."""
    ranks: tuple[int, int] = (8, 64)
    """The two ranks that are compared, the lower first; the seeds are compared at the higher."""
    seeds: tuple[int, int] = (0, 1)
    """The two seeds that are compared; the ranks are compared at the first."""
    side: Literal["input", "output"] = "input"
    """input: directions of A, as in the paper. output: of B."""
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), ranks=(2, 4), setup=run.SMOKE),
    "quick": Config(),
    "full": Config("full", setup=replace(run.SETUP, rows=0, validation_rows=0)),
}


def comparisons(config: Config) -> list[schedule.Row]:
    """The identity of every row; raises ValueError for ranks or seeds that make no comparison, or any other wrong setting."""
    (low, high), (first, second) = config.ranks, config.seeds
    if low >= high or first == second:
        raise ValueError(
            f"expected ranks LOW HIGH and two different seeds, got {low} {high} and {first} {second}"
        )
    fixed = {**asdict(config.setup), "targets": config.targets}
    given = ((low, first), (high, first), (high, second))
    narrow, wide, other = schedule.resolved(
        {**fixed, "rank": rank, "seed": seed} for rank, seed in given
    )
    found = matrices(wide, config.side)
    ranks, seeds = {"left": narrow, "right": wide}, {"left": wide, "right": other}
    each = [("rank", path, ranks) for path in found] + [
        ("seed", path, seeds) for path in found
    ]
    each.append(("random", found[0], seeds))
    return [
        {"comparison": kind, "matrix": path, "side": config.side, **pair}
        for kind, path, pair in each
    ]


def matrices(cell: schedule.Row, side: str) -> list[str]:
    """The paths of the layers the cell adapts; raises ValueError when they have no low-rank factors, or several widths."""
    layers = methods.adapters(run.adapt(cell)[0])
    shapes = {
        path: analysis.factor_columns(layer, side).shape
        for path, layer in layers.items()
        if hasattr(layer, "factors")
    }
    if others := [path for path, shape in shapes.items() if len(shape) != 3]:
        raise ValueError(
            f"targets: expected matrices that every block has, got also {', '.join(others)}"
        )
    widths = {path: d for path, (*_, d, r) in shapes.items() if r}
    if len(set(widths.values())) != 1:
        raise ValueError(
            f"expected low-rank adapters of one width on the {side} side, got {widths or cell['method']}"
        )
    return list(widths)


def label(cell: schedule.Row) -> str:
    """The cell in a line of progress."""
    return f"{cell['data']} {cell['targets']} r={cell['rank']} seed={cell['seed']}"


def measure(
    missing: Sequence[schedule.Row], cells: Sequence[schedule.Row], out: Path
) -> Iterator[schedule.Row]:
    """The rows, one after another; those of the cells that have no kept adapter are trained first."""
    trained = schedule.trained(out, cells, label) if cells else []
    layers = {
        results.key(cell): methods.adapters(one.model)
        for cell, one in zip(cells, trained, strict=True)
    }
    for config in missing:
        pair = [config["left"], config["right"]]
        left, right = (
            analysis.factor_columns(
                layers[results.key(cell)][config["matrix"]], config["side"]
            )
            for cell in pair
        )
        if config["comparison"] == "random":
            left, right = (
                jax.random.normal(jax.random.key(cell["seed"]), left.shape[-2:])
                for cell in pair
            )
        width = left.shape[-2]
        phi = analysis.layer_similarities(left, right)
        metrics = analysis.similarity_metrics(phi, width)
        said = {
            "dimension": width,
            "phi": phi.round(4).tolist(),
            "provenance": run.began(),
        }
        yield {"config": config, "metrics": metrics, **said}


class Maps(NamedTuple):
    """Similarities to show: phi[matrix][layer] is [i, j], NaN where unknown; layers counted from 1, `random` is a matrix."""

    whose: str
    width: int
    middle: int
    layers: int
    phi: Mapping[str, Mapping[int, Float[np.ndarray, "i j"]]]


NAMES = {
    "query": "ΔWq",
    "key": "ΔWk",
    "value": "ΔWv",
    "output": "ΔWo",
}  # ours: the paper's


def ours(group: Sequence[schedule.Row]) -> Maps:
    """Of rows alike in what is compared, under the paper's names of the matrices."""
    layers = max(len(row["phi"]) for row in group)
    middle = max(1, layers // 2)  # the paper's is the 48th of 96
    phi: Any = {}
    for row in sorted(
        group,
        key=lambda row: (
            row["config"]["comparison"] == "random",
            row["config"]["matrix"],
        ),
    ):
        end = row["config"]["matrix"].rpartition("/")[2]
        name = (
            "random" if row["config"]["comparison"] == "random" else NAMES.get(end, end)
        )
        found = {n: np.array(at) for n, at in enumerate(row["phi"], start=1)}
        phi[name] = {middle: found[1]} if name == "random" else found
    return Maps("ours", group[0]["dimension"], middle, layers, phi)


FIGURES = {
    "rank": ("fig3_phi_r8_r64_layer48", "fig6_phi_r8_r64_layers1_32_64_96"),
    "seed": (
        "fig4_phi_two_seeds_r64_layer48",
        "fig7_phi_two_seeds_r64_layers1_32_64_96",
    ),
}
IN_PAPER = {"dW_q": "ΔWq", "dW_v": "ΔWv", "random_gaussian": "random"}


def published(kind: str) -> Maps:
    """The paper's heat maps as read from its figures: Figures 3 and 6 for "rank", 4 and 7 for "seed"."""
    table: Any = pd.concat(
        paper.table(f"figures/lora_{name}") for name in FIGURES[kind]
    )
    table = table.rename(columns={"i_r8": "i", "j_r64": "j"})
    phi: dict[str, dict[int, Any]] = {}
    for (matrix, layer), cells in table.groupby(["matrix", "layer"]):
        phi.setdefault(IN_PAPER[matrix], {})[layer] = cells.pivot(
            index="i", columns="j", values="phi"
        ).to_numpy()
    return Maps("paper", 12288, 48, 96, phi)


CELLS = {
    "rank": heatmaps.upper,
    "seed": np.asarray,
}  # between two ranks the paper leaves j < i white


def figure(kind: str, each: Sequence[Maps]) -> Figure:
    """Figure 3 or 4 in kind: the middle layer, ours above the paper's."""
    rows = [
        [panel(maps, name, maps.middle, CELLS[kind]) for name in maps.phi]
        for maps in each
    ]
    if (
        kind == "rank"
    ):  # Figure 3's third and fourth panel; the paper's own have not been read from its colours
        zoomed = [
            panel(each[0], name, each[0].middle, heatmaps.lower) for name in each[0].phi
        ]
        rows[0] += [at._replace(title=f"{at.title}, j ≤ i") for at in zoomed]
    return heatmaps.grid(rows, label="φ(i, j)")


def figure_of_layers(kind: str, each: Sequence[Maps]) -> Figure:
    """Figure 6 or 7 in kind: a column for each matrix and a line for each layer, the paper's beside ours."""
    columns = [
        [panel(maps, name, layer, CELLS[kind]) for layer in sorted(layers)]
        for maps in each
        for name, layers in maps.phi.items()
        if name != "random"
    ]
    return heatmaps.grid(list(zip_longest(*columns)), label="φ(i, j)")


def panel(
    maps: Maps, name: str, layer: int, cells: Callable[[np.ndarray], np.ndarray]
) -> heatmaps.Panel:
    """One map, those of its cells that are shown."""
    place = "" if name == "random" else f", layer {layer}/{maps.layers}"
    return heatmaps.Panel(f"{maps.whose}: {name}{place}", cells(maps.phi[name][layer]))


def similarities(maps: Maps) -> pd.DataFrame:
    """phi(i, i) and n for each matrix and layer, their means, and what random directions would have: i / d and 0."""
    r = min(len(phi) for layers in maps.phi.values() for phi in layers.values())
    ranks = [i for i in (1, 2, 4, 8, 16, 32, 64) if i < r] + [r]
    lines: dict[tuple[str, str], Any] = {}
    for name, layers in maps.phi.items():
        by_layer = {
            (name, str(n)): analysis.similarity_by_rank(layers[n], maps.width, ranks)
            for n in sorted(layers)
        }
        lines |= {} if name == "random" else by_layer
        lines[name, "mean"] = np.mean(list(by_layer.values()), 0)
    lines[f"expected, d = {maps.width}", ""] = [*(i / maps.width for i in ranks), 0]
    columns = pd.Index(
        ["whose", "matrix", "layer", *(f"φ({i},{i})" for i in ranks), "n"]
    )
    return pd.DataFrame(
        [(maps.whose, *names, *values) for names, values in lines.items()],
        columns=columns,
    )


def effects(kind: str, maps: Maps) -> pd.DataFrame:
    """The paper's effects (section 7.2), the test each is put to here, and in how many of the matrices and layers it holds."""
    every = [
        phi
        for name, layers in maps.phi.items()
        if name != "random"
        for phi in layers.values()
    ]
    q, v, random = (maps.phi.get(name, {}) for name in ("ΔWq", "ΔWv", "random"))
    d, both = maps.width, [(q[layer], v[layer]) for layer in q if layer in v]
    top = "φ(1,1) >= 0.25, a cosine of 1/2", [phi[0, 0] >= 0.25 for phi in every]
    ranks = [
        ("both ranks share the top direction", *top),
        (
            "the others are shared less",
            "φ(r,r) < φ(1,1)",
            [phi.diagonal()[-1] < phi[0, 0] for phi in every],
        ),
        (
            "the top direction is shared more by ΔWv than by ΔWq",
            "φ(1,1)",
            [b[0, 0] > a[0, 0] for a, b in both],
        ),
    ]
    seeds = [
        ("two seeds share the top direction", *top),
        (
            "they share few in all",
            "0.5 <= n <= r/4",
            [
                0.5 <= analysis.shared_directions(phi, d) <= len(phi) / 4
                for phi in every
            ],
        ),
        (
            "they share more of ΔWq than of ΔWv",
            "n",
            [
                analysis.shared_directions(a, d) > analysis.shared_directions(b, d)
                for a, b in both
            ],
        ),
        (
            "random matrices share none",
            "|n| < 0.5",
            [abs(analysis.shared_directions(phi, d)) < 0.5 for phi in random.values()],
        ),
    ]
    tests = ranks if kind == "rank" else seeds
    lines = [
        (name, test, sum(holds), len(holds)) for name, test, holds in tests if holds
    ]
    said = [
        (name, test, f"{'there' if 2 * k > n else 'absent'}, {k} of {n}")
        for name, test, k, n in lines
    ]
    return pd.DataFrame(said, columns=pd.Index(["effect", "test", maps.whose]))


HEADER = """# Subspace similarity

LoRA's Figures 3, 4, 6 and 7: which directions do two ranks, or two seeds, have in common? Made by
`python experiments/subspace_similarity.py` from the rows of `subspace_similarity.jsonl`; the `.csv` has every cell.

φ(A, B, i, j) = ‖Uₐⁱᵀ U_bʲ‖² / min(i, j) (eq. 4) is the share that the top i directions of A and the top j of B have in common: 1 if
the fewer lie within the more, max(i, j)/d expected of random ones. Directions are singular vectors of LoRA's A (input side) or B
(output) in the layer's d dimensions; appendix G calls A's left-singular, section 7.2 right-singular: it depends on how A is stored.
Appendix G's (1 - d²)/p must be 1 - d²/p. The text has φ(1,1) > 0.5 at layer 48; the colours of Figure 3 say 0.40 (ΔWq), 0.44 (ΔWv).
The paper's values are read from colours, of GPT-3 175B: **compare the effects, not the values**; those of Figure 3's third and
fourth panel (j <= i) have not been read. Layers count from 1.

An effect is there if its test holds in more than half of the matrices and layers; n = r (φ(r,r) - r/d) counts the directions in
common beyond those of random ones. The tests' bounds were chosen with the paper's values in sight, so that those pass.
"""


def section(kind: str, group: Sequence[schedule.Row]) -> str:
    """The tables of one comparison: the effects, ours and the paper's put to the same tests, and the similarities."""
    config, left, each = (
        group[0]["config"],
        group[0]["config"]["left"],
        [ours(group), published(kind)],
    )
    pair = " against ".join(
        f"r = {cell['rank']} seed {cell['seed']}" for cell in (left, config["right"])
    )
    found = effects(kind, each[0]).merge(effects(kind, each[1]))
    there, absent = (
        "; ".join(found.effect[found.ours.str.startswith(said)]) or "none"
        for said in ("there", "absent")
    )
    table: Any = pd.concat([similarities(maps) for maps in each], ignore_index=True)
    table = table[[name for name in table if name != "n"] + ["n"] * ("n" in table)]
    settings = ", ".join(
        f"{k} {v}" for k, v in left.items() if k not in ("rank", "seed", "data_source")
    )
    smoke = (
        "**A smoke run of a random model: its numbers mean nothing.**\n\n"
        if left["model"] == "tiny"
        else ""
    )
    return (
        f"## Two {kind}s: {pair}, {config['side']} side\n\n{left['model']}, {left['data']}.\n\n{smoke}"
        f"{results.markdown(found)}\nThere in ours: {there}. Absent: {absent}.\n\n{results.markdown(table, digits=4)}\n"
        f"<details><summary>Settings</summary>\n\n{settings}\n\nData: {left['data_source']}\n\n</details>\n"
    )


def every_cell(rows: Sequence[schedule.Row]) -> pd.DataFrame:
    """A line for each i of every map, a column for each j."""
    order = ("side", "comparison", "matrix")
    lines = []
    for row in sorted(
        rows, key=lambda row: (*(row["config"][name] for name in order), row["key"])
    ):
        config = row["config"]
        fixed = {name: config["left"][name] for name in ("model", "data")} | {
            name: config[name] for name in order
        }
        fixed |= {
            f"{name}_{at}": config[at][name]
            for at in ("left", "right")
            for name in ("rank", "seed")
        }
        lines += [
            {**fixed, "layer": layer, "i": i, **dict(enumerate(line, 1))}
            for layer, phi in enumerate(row["phi"], 1)
            for i, line in enumerate(phi, 1)
        ]
    return pd.DataFrame(lines)


def by_kind(rows: Sequence[schedule.Row]) -> dict[str, list[list[schedule.Row]]]:
    """The groups of rows that compare ranks, and those that compare seeds; the input side first."""
    groups = sorted(
        schedule.groups(rows, but=("comparison", "matrix")),
        key=lambda group: group[0]["config"]["side"],
    )
    kinds: dict[str, list[list[schedule.Row]]] = {}
    for group in groups:
        kinds.setdefault(
            "rank" if group[0]["config"]["comparison"] == "rank" else "seed", []
        ).append(group)
    return {kind: kinds[kind] for kind in FIGURES if kind in kinds}


def verdicts(rows: Sequence[schedule.Row]) -> list[Verdict]:
    """The paper's effects, in how many of our matrices and layers each holds."""
    found = []
    for kind, (group, *_) in by_kind(rows).items():
        where = {"rank": "LoRA Figures 3, 6", "seed": "LoRA Figures 4, 7"}[kind]
        for name, _, said in effects(kind, ours(group)).itertuples(index=False):
            word, _, times = said.partition(", ")
            found.append(
                Verdict(
                    where, name, times, {"there": "seen", "absent": "not seen"}[word]
                )
            )
    return found


def render(rows: Sequence[schedule.Row], out: Path) -> list[Path]:
    """Draw out/subspace_similarity.md, .csv, .png and the other figures from the rows alone."""
    kinds = by_kind(rows)
    text = "\n".join(
        [
            HEADER,
            *(section(kind, group) for kind, found in kinds.items() for group in found),
        ]
    )
    names = {"rank": ("", "_layers", 3, 6), "seed": ("_seeds", "_seeds_layers", 4, 7)}
    figures = {}
    for kind, (group, *_) in kinds.items():
        each, (one, all_layers, n, n_layers) = (
            [ours(group), published(kind)],
            names[kind],
        )
        figures |= {one: figure(kind, each), all_layers: figure_of_layers(kind, each)}
        text += f"\n![Figure {n} in kind]({NAME}{one}.png)\n\n![Figure {n_layers} in kind]({NAME}{all_layers}.png)\n"
    for name in set(figures) - {""}:
        results.write(out / f"{NAME}{name}.png", results.png(figures[name]))
    return results.render(
        out / NAME, markdown=text, table=every_cell(rows), figure=figures.get("")
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and draw everything."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path, wanted = config.out / f"{NAME}.jsonl", comparisons(config)
    missing = results.pending(path, wanted)
    cells = list(
        {
            results.key(cell): cell
            for row in missing
            for cell in (row["left"], row["right"])
        }.values()
    )
    print(
        f"{len(missing)} of {len(wanted)} comparisons to make: {'; '.join(map(label, cells)) or 'none'}",
        flush=True,
    )
    if config.dry_run:
        return
    for row in measure(missing, cells, config.out):
        results.record(path, row)
    print(
        "wrote", *(str(written) for written in render(results.read(path), config.out))
    )


if __name__ == "__main__":
    cli.script(main)
