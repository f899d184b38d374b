"""LoRA Table 7 and Figure 8: which directions of W does ΔW amplify, and by how much?

U and V are the left and right singular vectors of ΔW. Then ‖UᵀWV‖ is what W has in ΔW's
directions, and ‖ΔW‖ / ‖UᵀWV‖ is the amplification factor (Hu et al. 2021, arXiv
2106.09685v2, section 7.3; all norms are Frobenius norms). Beside it stand W in its own
top r directions and in random ones. The paper does not say whether its ΔW includes α/r:
here it does, as ΔW is added to W; the last column leaves it out. Figure 8 (appendix H.4)
compares the top directions of W with those of A; of random ones max(i, j)/d is expected.
The paper's map is read from its colors, and its axis i is not certain.

The paper has W_q of GPT-3 175B, layer 48 of 96. Ours is a sentence encoder: **compare
the effects, not the values**. Layers count from 1. An effect is reproduced if its test
holds in more than half of our matrices, layers and ranks. The bounds of the tests were
chosen with the paper's values in sight, so that those pass.

    python experiments/amplification.py                  # takes rank_sweep's adapters
    python experiments/amplification.py --preset full    # all rows
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import jax
import numpy as np
import pandas as pd

from lora_jax import analysis, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets
from lora_jax.experiment.matrices import stacked_matrices
from lora_jax.results import Report, Section, claims, pictures
from lora_jax.results.pages import amplification as page
from lora_jax.results.pages.needs import amplification as needs


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
    """One row for each adapted matrix of each training."""
    items = []
    for run in grid(base, targets=[options.targets], rank=options.ranks):
        # Paths are those of the model, so that no training is needed to know them.
        for path in stacked_matrices(run, benches):
            items.append(Measurement((run,), {"matrix": path}, measure))
    return items


def measure(trained, settings):
    """Table 7's numbers of one training's matrices, and the maps of Figure 8."""
    layers = analysis.low_rank_layers(trained[0].model)
    seed = trained[0].bench.run.seed
    for setting in settings:
        path = setting["matrix"]
        layer = layers[path]
        numbers = analysis.layer_amplification(layer)
        # The factor of ΔW = 0 is NaN, which would be a hole in the page.
        if not np.isfinite(numbers["factor"]).all():
            raise ValueError(
                f"expected a training that changes {path}; ΔW is zero: is the learning "
                "rate too low?"
            )
        a, _ = layer.factors()  # [L, d, r]
        random = jax.random.normal(jax.random.key(seed), a.shape)
        phi = analysis.figure8_similarity(layer, a)
        phi_random = analysis.figure8_similarity(layer, random)
        yield {
            "metrics": analysis.metrics_by_layer(numbers),
            "dimension": a.shape[-2],
            # [L, i, j]; rows are text, and colors need no more than four digits.
            "phi": phi.round(4).tolist(),
            "phi_random": phi_random.round(4).tolist(),
        }


def show(rows: list) -> Report:
    """A section for each model and data; the paper's table stands below ours."""
    sections = []
    tables = []
    groups = results.groups(rows, axes=("rank", "matrix"))
    for group in groups:
        table = page.table7(group)
        sections.append(Section(group.name, page.blocks(group, table)))
        tables.append(table)
    # Figure 8 is of the rows, and the claims are of both.
    rows_by_group = [group.rows for group in groups]
    pairs = list(zip(tables, rows_by_group, strict=True))
    return Report(
        title="Amplification",
        intro=__doc__,
        sections=sections,
        claims=claims.of_groups(groups, pairs, lambda pair: page.table7_claims(*pair)),
        headline="at the lowest r",
        data=pd.concat([*tables, page.published()]),
        **pictures.of_groups(groups, rows_by_group, page.figure8),
        comparison=page.COMPARISON,
    )


EXPERIMENT = Experiment(
    "amplification", PRESETS, measurements, show, __doc__, keep=True, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
