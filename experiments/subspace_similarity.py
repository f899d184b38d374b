"""LoRA Figures 3, 4, 6 and 7: do two ranks, or two seeds, learn the same directions?

φ(A, B, i, j) = ‖Uₐⁱᵀ U_bʲ‖² / min(i, j) (Hu et al. 2021, arXiv 2106.09685v2, equation 4)
is the share that the top i directions of A and the top j of B have in common: 1 if the
fewer lie within the more, max(i, j)/d expected of random ones. Compared are the input
directions (A's, by its SVD) of every adapted matrix and layer between r = 8 and r = 64,
between two seeds at r = 64, and between two random matrices. Appendix G calls A's
directions left-singular, section 7.2 right-singular: it depends on how A is stored.
Appendix G's (1 - d²)/p must be 1 - d²/p.

The paper's values are read from the colors of its figures, of GPT-3 175B, layers 1 to
96: **compare the effects, not the values**. Its text has φ(1,1) > 0.5 at layer 48; the
colors of Figure 3 say 0.40 (ΔWq) and 0.44 (ΔWv). Layers count from 1; n = r (φ(r,r) -
r/d) counts the directions in common beyond those of random ones. An effect is
reproduced if its test holds in more than half of the matrices and layers; the tests'
bounds were chosen with the paper's values in sight, so that those pass.

    python experiments/subspace_similarity.py                 # takes rank_sweep's adapters
    python experiments/subspace_similarity.py --side output   # B's (the footnote 7)
    python experiments/subspace_similarity.py --preset full   # all rows
"""

from dataclasses import dataclass
from typing import Literal

import jax
import pandas as pd

from lora_jax import analysis, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets
from lora_jax.experiment.matrices import stacked_matrices
from lora_jax.results import Comparison, Report, Section, report
from lora_jax.results.pages import similarity_claims
from lora_jax.results.pages import similarity_maps as maps

SOURCES = {"rank": "LoRA Figures 3, 6", "seed": "LoRA Figures 4, 7"}


@dataclass(frozen=True)
class Options:
    targets: str = "query,value"
    """Matrices to adapt: names joined by commas, or a regex on paths."""
    ranks: tuple[int, int] = (8, 64)
    """The two ranks that are compared, the lower first; the seeds are compared at the
    higher."""
    seeds: tuple[int, int] = (0, 1)
    """The two seeds that are compared; the ranks are compared at the first."""
    side: Literal["input", "output"] = "input"
    """input compares the directions of A, as in the paper; output those of B."""


PRESETS = {
    "smoke": (Options(ranks=(2, 4)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(), presets.FULL),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    low, high = options.ranks
    first, second = options.seeds
    if low >= high or first == second:
        raise ValueError(
            f"expected ranks LOW HIGH and two different seeds, got {low} {high} and "
            f"{first} {second}"
        )
    base = base.changed(targets=options.targets)
    narrow = base.changed(rank=low, seed=first)
    wide = base.changed(rank=high, seed=first)
    other = base.changed(rank=high, seed=second)
    paths = stacked_matrices(wide, benches, side=options.side)
    pairs = [("rank", path, (narrow, wide)) for path in paths]
    pairs += [("seed", path, (wide, other)) for path in paths]
    pairs.append(("random", paths[0], (wide, other)))
    items = []
    for kind, path, runs in pairs:
        settings = {"comparison": kind, "matrix": path, "side": options.side}
        items.append(Measurement(runs, settings, measure, names=("left", "right")))
    return items


def measure(trained, settings):
    for setting in settings:
        columns = []
        for model, _, bench in trained:
            layer = analysis.low_rank_layers(model)[setting["matrix"]]
            directions = analysis.factor_columns(layer, setting["side"])
            if setting["comparison"] == "random":
                key = jax.random.key(bench.run.seed)
                directions = jax.random.normal(key, directions.shape[-2:])
            columns.append(directions)
        width = columns[0].shape[-2]
        phi = analysis.layer_similarities(*columns)
        yield {
            "metrics": analysis.similarity_metrics(phi, width),
            "dimension": width,
            "phi": phi.round(4).tolist(),
        }


def show(rows: list) -> Report:
    sections, claims, figures = [], [], {}
    for kind in ("rank", "seed"):
        drawn = False
        for group in groups_of(rows, kind):
            ours = maps.ours(group.rows)
            published = maps.published(kind)
            sections.append(
                Section(heading(kind, group), blocks(group, ours, published))
            )
            # The pictures and the claims are those of the first group.
            if not drawn:
                claims += similarity_claims.claims(SOURCES[kind], kind, ours)
                claims_of_paper = similarity_claims.claims(
                    SOURCES[kind], kind, published
                )
                sections[-1].blocks.insert(0, paper_check(claims_of_paper))
                suffix = "" if kind == "rank" else "seeds"
                figures[suffix] = maps.middle_layer(kind, [ours, published])
                layers = f"{suffix}_layers".strip("_")
                figures[layers] = maps.all_layers(kind, [ours, published])
                drawn = True
    return Report(
        title="Subspace similarity",
        intro=__doc__,
        sections=sections,
        claims=claims,
        data=maps.cells(rows),
        figures=figures,
        comparison=Comparison(
            by=("model", "data", "side", "comparison", "matrix", "layer", "i"),
            value="1",
            error="",
            tolerance=0.05,
        ),
    )


def groups_of(rows: list, kind: str) -> list[results.Group]:
    """The groups of rows that compare ranks, or seeds (and random matrices)."""
    groups = results.groups(rows, axes=("comparison", "matrix"))
    chosen = []
    for group in sorted(groups, key=lambda group: group.settings["side"]):
        is_rank = group.first["config"]["comparison"] == "rank"
        if is_rank == (kind == "rank"):
            chosen.append(group)
    return chosen


def heading(kind: str, group: results.Group) -> str:
    texts = []
    for name in ("left", "right"):
        run = group.settings[name]
        texts.append(f"r = {run['rank']} seed {run['seed']}")
    return f"Two {kind}s: {' against '.join(texts)}, {group.settings['side']} side"


def blocks(group: results.Group, ours: maps.Maps, published: maps.Maps) -> list:
    left = group.settings["left"]
    run_group = results.Group("", left, group.rows)  # settings of the runs, to list
    tables = [maps.similarities(ours), maps.similarities(published)]
    table = pd.concat(tables, ignore_index=True)
    columns = [name for name in table if name != "n"] + ["n"]
    return [
        *report.warning(run_group),
        f"{left['model']}, {left['data']}.",
        results.table(table[columns], digits=4),
        report.settings(run_group),
    ]


def paper_check(claims_of_paper: list) -> str:
    """How the paper's own maps do in the same tests."""
    texts = [f"{claim.statement}: {claim.evidence}" for claim in claims_of_paper]
    return f"The paper's maps in the same tests: {'; '.join(texts)}."


EXPERIMENT = Experiment(
    "subspace_similarity", PRESETS, measurements, show, description=__doc__, keep=True
)

if __name__ == "__main__":
    EXPERIMENT.script()
