"""LoRA Figures 3, 4, 6 and 7: do two ranks, or two seeds, learn the same directions?

φ(A, B, i, j) = ‖Uₐⁱᵀ U_bʲ‖² / min(i, j) (Hu et al. 2021, arXiv 2106.09685v2, equation 4)
is the share that the top i directions of A and the top j of B have in common. It is 1 if
the fewer lie within the more; of random ones max(i, j)/d is expected. Compared are the
input directions (A's, by its SVD) of every adapted matrix and layer between r = 8 and
r = 64, between two seeds at r = 64, and between two random matrices.

The paper's values are read from the colors of its figures, of GPT-3 175B, layers 1 to
96: **compare the effects, not the values**. Layers count from 1. An effect is reproduced
if its test holds in more than half of the matrices and layers. The bounds of the tests
were chosen with the paper's values in sight, so that those pass.

    python experiments/subspace_similarity.py                 # takes rank_sweep's adapters
    python experiments/subspace_similarity.py --side output   # B's (the footnote 7)
    python experiments/subspace_similarity.py --preset full   # all rows
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass
from typing import Literal

from lora_jax import analysis
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets
from lora_jax.experiment.matrices import stacked_matrices
from lora_jax.results import Comparison, Report
from lora_jax.results.pages import similarity_maps
from lora_jax.results.pages import subspace_similarity as page
from lora_jax.results.pages.needs import subspace_similarity as needs


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
    """One row for each matrix of each comparison, and one of random matrices."""
    low, high = options.ranks
    first, second = options.seeds
    if low >= high or first == second:
        text = f"{low} {high} and {first} {second}"
        raise ValueError(f"expected ranks LOW HIGH and two different seeds, got {text}")
    run = base.changed(targets=options.targets, seed=first)
    narrow = run.changed(rank=low)
    wide = run.changed(rank=high)
    other = wide.changed(seed=second)  # differs in nothing else
    paths = stacked_matrices(wide, benches, side=options.side)
    pairs = [("rank", path, (narrow, wide)) for path in paths]
    pairs += [("seed", path, (wide, other)) for path in paths]
    # The control: any path will do, for random matrices differ in their width alone.
    pairs.append(("random", paths[0], (wide, other)))
    items = []
    for kind, path, runs in pairs:
        settings = {"comparison": kind, "matrix": path, "side": options.side}
        items.append(Measurement(runs, settings, measure, names=("left", "right")))
    return items


def measure(trained, settings):
    """φ between the directions of two trainings, of every layer."""
    for setting in settings:
        side = setting["side"]
        columns = []  # of the left and the right training, [L, d, r] or [d, r]
        for model, _, bench in trained:
            layer = analysis.low_rank_layers(model)[setting["matrix"]]
            if setting["comparison"] == "random":
                columns.append(analysis.random_columns(layer, side, bench.run.seed))
            else:
                columns.append(analysis.factor_columns(layer, side))
        width = columns[0].shape[-2]
        phi = analysis.layer_similarities(*columns)
        yield {
            "metrics": analysis.similarity_metrics(phi, width),
            "dimension": width,  # d
            # [L, i, j]; rows are text, and colors need no more than four digits.
            "phi": phi.round(4).tolist(),
        }


def show(rows: list) -> Report:
    """A section for each comparison, of two ranks and then of two seeds."""
    sections, claims = [], []
    comparisons = page.comparisons(rows)
    for kind, groups in comparisons:
        sections += page.sections(kind, groups)
        claims += page.kind_claims(kind, groups)
    return Report(
        title="Subspace similarity",
        intro=__doc__,
        sections=[*sections, page.REMARKS],
        claims=claims,
        data=similarity_maps.cells(rows),
        **page.pictures_of(comparisons),
        # A reader's φ(i, 1) is held against ours: "1" is the column of j = 1.
        comparison=Comparison(by=page.CELL, value="1", error="", tolerance=0.05),
    )


EXPERIMENT = Experiment(
    "subspace_similarity", PRESETS, measurements, show, __doc__, keep=True, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
