"""Is ΔW really low-rank? The score that is left when each ΔW keeps its top k directions.

This takes full fine-tuning's ΔW = W - W0 of every matrix of the blocks, and a LoRA's of
rank 64, truncates each to its top k singular directions, and scores the model without
training it again. Everything else (head, biases, norms, embeddings) keeps its
fine-tuned value: k = 0 shows what that alone is worth. Full fine-tuning at k is the
adapter that `methods.lora_from_delta(W0, W, rank=k, rest="tuned")` extracts.

Hu et al. 2021 (arXiv 2106.09685v2), sections 1 and 4.1, suppose that ΔW has a low
intrinsic rank, and that 1 or 2 of 12,288 are enough. They train at low rank (Table 6)
and truncate nothing: **there is no published number for this, only the trend**. The
relative error is ‖ΔW - ΔW_k‖ / ‖ΔW‖ over all matrices together, in Frobenius norms. The
energy is the share of ‖ΔW‖² that is kept, as a mean over matrices. The parameters are
those of the factors of rank k.

    python experiments/svd_truncation.py    # rank_sweep's adapter, one full fine-tuning
    python experiments/svd_truncation.py --full-learning-rate 3e-4
    python experiments/svd_truncation.py --preset full     # all rows, three seeds
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_jax import analysis, methods, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets
from lora_jax.experiment.scoring import prefixed, score
from lora_jax.results import Comparison, Report, Section, claims, pictures
from lora_jax.results.pages import svd_truncation as page
from lora_jax.results.pages.needs import svd_truncation as needs


@dataclass(frozen=True)
class Options:
    rank: int = 64
    """Rank of the LoRA that is truncated."""
    ks: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64)
    """Directions that are kept; all of them are scored too."""
    full_learning_rate: float = 1e-4
    """Learning rate of full fine-tuning; --learning-rate is LoRA's."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""


PRESETS = {
    "smoke": (Options(rank=8, ks=(0, 1, 2, 4)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    """One row for each k of each training: a LoRA and a full fine-tuning per seed."""
    rank_of_full = analysis.full_rank(benches.bench(base).model)
    items = []
    for seed in options.seeds:
        lora = base.changed(rank=options.rank, seed=seed)
        rate = options.full_learning_rate  # LoRA's would be too high
        full = base.changed(method="full", learning_rate=rate, seed=seed)
        for run, rank in ((lora, options.rank), (full, rank_of_full)):
            for k in analysis.kept_directions(options.ks, rank):
                items.append(Measurement((run,), {"k": k}, measure))
    return items


def measure(trained, settings):
    """Score one training's truncated models."""
    model, row, bench = trained[0]
    split = bench.test_split
    # One SVD of each ΔW serves all k.
    deltas = analysis.take_deltas(model, bench.model)
    spectra = [np.asarray(delta.s) for delta in deltas.deltas.values()]
    for setting in settings:
        k = setting["k"]
        truncated = analysis.truncate(deltas, k)
        scores = prefixed(split, score(bench, truncated, split))
        # A truncated ΔW is a LoRA of rank k.
        adapters = methods.adapters(truncated).values()
        yield {
            "metrics": scores | analysis.truncation_loss(spectra, k),
            "examples": {split: row["examples"][split]},
            "parameters": sum(layer.parameters() for layer in adapters),
            "trained": row["metrics"],  # before the truncation
        }


def show(rows: list) -> Report:
    """A section for each model and data, with a table for each of its trainings."""
    sections, tables = [], []
    groups = results.groups(rows, axes=page.AXES)
    for group in groups:
        table = page.truncation_table(group)
        sections.append(Section(group.name, page.blocks(group, table)))
        tables.append(table)
    return Report(
        title="Truncating ΔW",
        intro=__doc__,
        sections=sections,
        claims=claims.of_groups(groups, tables, page.truncation_claims),
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.figures),
        comparison=Comparison(by=("data", "model", "series", "k")),  # of scores
    )


EXPERIMENT = Experiment(
    "svd_truncation",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,
    hidden=("method",),  # both are trained, whatever it says
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
