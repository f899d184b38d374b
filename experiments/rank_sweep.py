"""LoRA Table 6: which rank is enough, for which attention matrices?

This trains adapters of {query}, {query, value} and {query, key, value, output} at
r = 1, 2, 4, 8 and 64. Hu et al. 2021 (arXiv 2106.09685v2), section 7.1, did the same
with GPT-3 175B on WikiSQL and MultiNLI. Here the model is a sentence encoder of 22.7 M
parameters and the data are film reviews, so that a laptop suffices: **compare the
trend, not the values**.

    python experiments/rank_sweep.py                              # 15 runs, 13 minutes
    python experiments/rank_sweep.py --preset full                # all rows, three seeds
    python experiments/rank_sweep.py --model DIR --data FILE.csv  # your own
    python experiments/rank_sweep.py --preset paper --dry-run     # RoBERTa-base on GLUE
"""

from dataclasses import dataclass

import pandas as pd

from lora_jax import paper, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets
from lora_jax.results import Comparison, Report, Section, plots, report
from lora_jax.results.pages import rank_sweep as page

# In the order of the paper's table.
TARGETS = ("query", "query,value", "query,key,value,output")


@dataclass(frozen=True)
class Options:
    targets: tuple[str, ...] = TARGETS
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 64)
    """Ranks of the update."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""
    tasks: tuple[str, ...] = ()
    """One task or several, each as --data of other experiments: a name or your own
    file. Without any it is the preset's."""


# The paper's own setting: RoBERTa-base, two tasks of GLUE and five seeds.
GLUE = Options(tasks=("mnli", "sst2"), seeds=(0, 1, 2, 3, 4))
PRESETS = {
    "smoke": (Options(ranks=(1, 2)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
    "paper": (GLUE, presets.PAPER),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    """One row for each training, of each task, seed, set of matrices and rank."""
    runs = []
    for task in options.tasks or (base.data.data,):
        # 0 epochs, as in the paper preset, stands for Table 9's number for the task.
        epochs = base.train.epochs or paper.lora.table9_epochs(task)
        run = base.changed(data=task, epochs=epochs)
        axes = {"targets": options.targets, "rank": options.ranks}
        runs += grid(run, seed=options.seeds, **axes)
    return [Measurement((run,)) for run in runs]


def show(rows: list) -> Report:
    """A section for each model and data, then the paper's own accuracies."""
    published = paper.lora.table6()
    sections = []
    tables = []
    # Groups differ in other settings than these; the largest comes first.
    for group in results.groups(rows, axes=("targets", "rank", "seed")):
        scores = results.scores(group, by=("targets", "rank"))
        scores = results.in_order(scores, "targets", TARGETS, then=("rank",))
        # The paper's accuracies stand beside ours, in the lines that it has too.
        table = paper.lora.beside(scores, published, on=["targets", "rank"])
        blocks = report.grid_blocks(group, table, down="targets", across="rank")
        sections.append(Section(group.name, blocks))
        tables.append(table)
    sections += page.paper_sections(published)
    # One figure and one list of claims, of the largest group alone.
    largest = tables[0]
    figure = plots.lines_beside_paper(
        largest, published, by="targets", x="rank", xlabel="rank r"
    )
    return Report(
        title="Rank sweep",
        intro=__doc__,
        sections=sections,
        claims=page.table6_claims(largest),
        headline="with {query,value}",
        data=pd.concat(tables),
        figures={"": figure},
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
)

if __name__ == "__main__":
    EXPERIMENT.script()
