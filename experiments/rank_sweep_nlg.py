"""LoRA Table 18: which rank is enough for a language model that writes from data?

This trains adapters of {query, value} at r = 1, 4 and 16 to put E2E's records into
words, and scores what is written by beam search against all references. Hu et al. 2021
(arXiv 2106.09685v2), section H.2, did so with GPT-2 medium at r = 1 … 1024, on all rows
for five epochs. Here it is SmolLM2-135M on its own 4-bit weights, on 512 of 42,061 rows
and 48 of 630 test sources: **compare the trend, not the values**. Where E2E is neither
supplied nor downloadable, film reviews take its place.

    python experiments/rank_sweep_nlg.py --data-dir e2e-dataset.zip  # 3 runs: 13 min
    python experiments/rank_sweep_nlg.py --preset full               # all rows, 6 ranks
    python experiments/rank_sweep_nlg.py --data FILE.csv  # columns source and target
    python experiments/rank_sweep_nlg.py --preset paper --dry-run    # GPT-2 medium
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import pandas as pd

from lora_jax import paper, results
from lora_jax.experiment import (
    Experiment,
    Measurement,
    RunConfig,
    fallback,
    grid,
    presets,
)
from lora_jax.metrics import text as text_metrics
from lora_jax.results import Comparison, Report, Section, method_tables, pictures
from lora_jax.results.pages import rank_sweep_nlg as page
from lora_jax.results.pages.needs import rank_sweep_nlg as needs


@dataclass(frozen=True)
class Options:
    targets: tuple[str, ...] = ("query,value",)
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    ranks: tuple[int, ...] = (1, 4, 16)
    """Ranks of the update."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""
    fallback: bool = True
    """Take another task where E2E is neither supplied nor downloadable."""


# A quarter of what nlg.py takes: three ranks in a quarter of an hour.
QUICK = presets.NLG.changed(rows=512, validation_rows=128, test_sources=48)
PAPER_RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PRESETS = {
    "smoke": (Options(ranks=(1, 2)), presets.NLG_SMOKE),
    "quick": (Options(), QUICK),
    "full": (Options(ranks=(1, 2, 4, 8, 16, 64)), presets.NLG_FULL),
    "paper": (Options(ranks=PAPER_RANKS, fallback=False), presets.NLG_PAPER),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    """One row for each training, of each seed, set of matrices and rank."""
    # Only the paper's own setting insists on the paper's data.
    run = fallback.available(base) if options.fallback else base
    axes = {"targets": options.targets, "rank": options.ranks}
    runs = grid(run, seed=options.seeds, **axes)
    return [Measurement((run,)) for run in runs]


def show(rows: list) -> Report:
    """A section for each model and data; on E2E the paper's scores stand beside."""
    published = paper.lora.table18()
    sections = []
    tables = []
    # Groups differ in other settings than these; the largest comes first.
    groups = results.groups(rows, axes=("targets", "rank", "seed"))
    for group in groups:
        table = page.sweep_table(group, published)
        blocks = page.blocks(group, table, text_metrics.note)
        sections.append(Section(group.name, blocks))
        tables.append(table)
    return Report(
        title="Rank sweep of a language model",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.figure),
        # Texts differ between machines: scores within some points agree.
        comparison=Comparison(
            by=("data", "model", "settings", "targets", "rank"),
            tolerance=method_tables.TOLERANCE,
        ),
    )


EXPERIMENT = Experiment(
    "rank_sweep_nlg",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,  # some hundred kB a run, for the analyses
    # A device for each core slows a language model down, see `process.prepare`.
    cores_as_devices=False,
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
