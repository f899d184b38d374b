"""LoRA Table 6: which rank is enough, for which attention matrices?

This trains adapters of {query}, {query, value} and {query, key, value, output} at
r = 1, 2, 4, 8 and 64. Hu et al. 2021 (arXiv 2106.09685v2), section 7.1, did the same
with GPT-3 175B on WikiSQL and MultiNLI. Here the model is a sentence encoder of 22.7 M
parameters and the data are film reviews, so that a laptop suffices: **compare the
trend, not the values**.

    python experiments/rank_sweep.py                              # 16 runs, 14 minutes
    python experiments/rank_sweep.py --learning-rate auto         # the best of 3 rates
    python experiments/rank_sweep.py --preset full                # all rows, three seeds
    python experiments/rank_sweep.py --model DIR --data FILE.csv  # your own
    python experiments/rank_sweep.py --preset paper --dry-run     # RoBERTa-base on GLUE
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lora_jax import paper, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets, sweep
from lora_jax.results import Comparison, Report, Section, claims, pictures
from lora_jax.results.pages import rank_sweep as page
from lora_jax.results.pages.needs import rank_sweep as needs
from lora_jax.results.sweeps import sweep_groups

TARGETS = ("query", "query,value", "query,key,value,output")  # the table's order


@dataclass(frozen=True)
class Options:
    targets: tuple[str, ...] = TARGETS
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 64)
    """Ranks of the update."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""
    tasks: tuple[str, ...] = ()
    """One task or several; your own file is one. --data is the same flag."""
    learning_rate: float | Literal["auto"] = presets.QUICK.train.learning_rate
    """Highest learning rate. auto trains everything at three, 0.5, 1 and 5 times the
    preset's, and shows each line at the one with the best validation score."""
    baseline: bool = True
    """Also train the head alone, without an adapter: what all lines have to beat."""


GLUE = Options(  # the paper's own setting, RoBERTa-base
    tasks=("mnli", "sst2"),
    seeds=(0, 1, 2, 3, 4),
    learning_rate=presets.PAPER.train.learning_rate,
    baseline=False,
)
PRESETS = {
    "smoke": (Options(ranks=(1, 2)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
    "paper": (GLUE, presets.PAPER),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    """One row for each training, of each task, seed, set, rank and learning rate."""
    rates = sweep.learning_rates(base, options.learning_rate)
    runs = []
    for task in options.tasks or (base.data.data,):
        # 0 epochs, as in the paper preset, stands for Table 9's number for the task.
        epochs = base.train.epochs or paper.lora.table9_epochs(task)
        run = base.changed(data=task, epochs=epochs)
        axes = {"targets": options.targets, "rank": options.ranks}
        runs += grid(run, seed=options.seeds, **axes)
        if options.baseline:
            runs += sweep.head_runs(run, options.seeds, benches)
    return sweep.measurements(runs, rates)


def show(rows: list) -> Report:
    """A section for each model and data, then the paper's own accuracies."""
    published = paper.lora.table6()
    sections = []
    tables = []
    # Lines at their best rates come first, then the largest group.
    groups = sweep_groups(rows)
    for group in groups:
        scores = results.in_order(group.table, "targets", TARGETS, then=("rank",))
        # The paper's accuracies stand beside ours, in the lines that it has too.
        table = paper.lora.beside(scores, published, on=["targets", "rank"])
        sections.append(Section(group.name, page.blocks(group, table)))
        tables.append(table)
    sections += page.paper_sections(published)
    pairs = [
        (table, group.claim_suffix) for table, group in zip(tables, groups, strict=True)
    ]
    return Report(
        title="Rank sweep",
        intro=__doc__,
        sections=sections,
        claims=claims.of_groups(groups, pairs, lambda pair: page.table6_claims(*pair)),
        headline="with {query,value}",
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.figure),
        # A reader's accuracies are held against the reference line by line.
        comparison=Comparison(by=("data", "model", "settings", "targets", "rank")),
    )


EXPERIMENT = Experiment(
    "rank_sweep",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    hidden=("data",),  # --tasks says it
    keep=True,  # the experiments that analyze adapters take these
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
