"""LoRA Table 6: which rank is enough, for which attention matrices?

Trains {query}, {query, value} and {query, key, value, output} at r = 1, 2, 4, 8 and 64.
Hu et al. 2021 (arXiv 2106.09685v2), section 7.1, did so with GPT-3 175B on WikiSQL and
MultiNLI, which no laptop repeats. Ours is a sentence encoder of 22.7 M parameters on
film reviews: **compare the trend, not the values**.

    python experiments/rank_sweep.py                              # 15 runs, 13 minutes
    python experiments/rank_sweep.py --preset full                # all rows, three seeds
    python experiments/rank_sweep.py --model DIR --data FILE.csv  # your own
    python experiments/rank_sweep.py --preset paper --dry-run     # RoBERTa-base on GLUE
"""

from dataclasses import dataclass

import pandas as pd

from lora_jax import paper, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets
from lora_jax.results import Claim, Comparison, Report, Section, claims, plots, report

SOURCE = "LoRA Table 6"
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
    """Several tasks, instead of the one of --data."""


GLUE = Options(tasks=("mnli", "sst2"), seeds=(0, 1, 2, 3, 4))
PRESETS = {
    "smoke": (Options(ranks=(1, 2)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
    "paper": (GLUE, presets.PAPER),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    runs = []
    for task in options.tasks or (base.data.data,):
        # 0 epochs, as in the paper preset, stands for Table 9's number for the task.
        epochs = base.train.epochs or paper.lora.table9_epochs(task)
        run = base.changed(data=task, epochs=epochs)
        axes = {"targets": options.targets, "rank": options.ranks}
        runs += grid(run, seed=options.seeds, **axes)
    return [Measurement((run,)) for run in runs]


def show(rows: list) -> Report:
    published = paper.lora.table6()
    sections = []
    tables = []
    for group in results.groups(rows, axes=("targets", "rank", "seed")):
        scores = results.scores(group, by=("targets", "rank"))
        scores = results.in_order(scores, "targets", TARGETS, then=("rank",))
        # The paper's accuracies stand beside ours, in the lines that it has too.
        table = paper.lora.beside(scores, published, on=["targets", "rank"])
        blocks = report.grid_blocks(group, table, down="targets", across="rank")
        sections.append(Section(group.name, blocks))
        tables.append(table)
    sections += paper_sections(published)
    figure = plots.lines_beside_paper(
        tables[0], published, by="targets", x="rank", xlabel="rank r"
    )
    return Report(
        title="Rank sweep",
        intro=__doc__,
        sections=sections,
        claims=table6_claims(tables[0]),
        data=pd.concat(tables),
        figures={"": figure},
        comparison=Comparison(by=("data", "model", "settings", "targets", "rank")),
    )


def paper_sections(published: pd.DataFrame) -> list[Section]:
    sections = []
    for dataset, part in published.groupby("dataset", sort=False):
        table = results.pivot(part, "targets", "rank", "value", prefix="r = ")
        title = f"The paper: GPT-3 175B, {dataset}, accuracy in %"
        sections.append(Section(title, [table]))
    return sections


def table6_claims(table: pd.DataFrame) -> list[Claim]:
    """The choice of matrices matters, the rank little."""
    parts = dict(list(table.groupby("targets")))
    result = []
    query, query_value, all_four = TARGETS
    for better, worse in ((query_value, query), (all_four, query_value)):
        if better in parts and worse in parts:
            statement = f"{{{better}}} is above {{{worse}}}, mean over ranks"
            ours = claims.mean_score(parts[better])
            other = claims.mean_score(parts[worse])
            result.append(claims.difference(SOURCE, statement, ours, other))
    for targets, part in parts.items():
        low = part.iloc[0]
        high = part.iloc[-1]
        ranks = f"r = {low['rank']} does as well as r = {high['rank']}"
        statement = f"{ranks} with {{{targets}}}"
        ours = claims.line_score(low)
        other = claims.line_score(high)
        result.append(claims.no_worse(SOURCE, statement, ours, other))
    return result


EXPERIMENT = Experiment(
    "rank_sweep", PRESETS, measurements, show, description=__doc__, keep=True
)

if __name__ == "__main__":
    EXPERIMENT.script()
