"""LoRA Table 6: which rank is enough, for which attention matrices?

Trains {query}, {query, value} and {query, key, value, output} at r = 1, 2, 4, 8 and 64,
and draws the test score against r. Hu et al. 2021 (arXiv 2106.09685v2), section 7.1,
Table 6, did so with GPT-3 175B on WikiSQL and MultiNLI, which no laptop repeats. Ours is
a sentence encoder of 22.7 M parameters on film reviews: **compare the trend, not the
values**.

    python experiments/rank_sweep.py                              # 15 runs, 13 minutes
    python experiments/rank_sweep.py --preset full                # all rows, three seeds
    python experiments/rank_sweep.py --model DIR --data FILE.csv  # your own
    python experiments/rank_sweep.py --preset paper --dry-run     # RoBERTa-base on GLUE
"""

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets
from lora_jax.results import (
    Claim,
    Comparison,
    Group,
    Report,
    Score,
    Section,
    claims,
    groups,
    pivot,
    plots,
    plus_minus,
    report,
    scores,
)

SOURCE = "LoRA Table 6"
TARGETS = ("query", "query,value", "query,key,value,output")


@dataclass(frozen=True)
class Options:
    targets: tuple[str, ...] = TARGETS
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 64)
    """Ranks of the update."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each."""
    tasks: tuple[str, ...] = ()
    """Several tasks, instead of the one of --data."""


PRESETS = {
    "smoke": (Options(ranks=(1, 2)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
    "paper": (
        Options(tasks=("mnli", "sst2"), seeds=(0, 1, 2, 3, 4)),
        presets.PAPER,
    ),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    measurements = []
    for task in options.tasks or (base.data.data,):
        # 0 epochs, as in the paper preset, stands for Table 9's number for the task.
        epochs = base.train.epochs or paper.lora.table9_epochs(task)
        runs = grid(
            base.changed(data=task, epochs=epochs),
            seed=options.seeds,
            targets=options.targets,
            rank=options.ranks,
        )
        measurements += [Measurement((run,)) for run in runs]
    return measurements


def show(rows: list) -> Report:
    sections = []
    tables = []
    for group in groups(rows, axes=("targets", "rank", "seed")):
        table = table6(group)
        tables.append(table.assign(settings=group.difference))
        sections.append(Section(group.name, blocks(group, table)))
    sections.append(Section("The paper's Table 6 (GPT-3 175B)", published()))
    return Report(
        title="Rank sweep",
        intro=__doc__,
        sections=sections,
        claims=table6_claims(tables[0]),
        data=pd.concat(tables),
        figures={"": figure(tables[0])},
        comparison=Comparison(by=("data", "model", "targets", "rank")),
    )


def table6(group: Group) -> pd.DataFrame:
    """A line for each set of targets and rank, the paper's accuracies beside ours."""
    settings = group.settings
    table = scores(group, by=("targets", "rank"))
    for position, name in enumerate(("data", "model", "method")):
        table.insert(position, name, settings[name])
    table = paper.lora.beside(table, paper.lora.table6(), on=["targets", "rank"])
    known = {targets: position for position, targets in enumerate(TARGETS)}
    order = table.targets.map(known).fillna(len(TARGETS))
    table = table.assign(order=order).sort_values(["order", "targets", "rank"])
    return table.drop(columns="order").reset_index(drop=True)


def blocks(group: Group, table: pd.DataFrame) -> list:
    """The accuracies, the parameters, and what the paper's claim is about: means."""
    table = table.assign(text=plus_minus(table.score, table.error))
    head = group.first["parameters"]["head"]
    return [
        *report.warning(group),
        report.measured_on(group, table["error of"].iloc[0]),
        pivot(table, "targets", "rank", "text", prefix="r = "),
        f"Trainable parameters of the adapter (the head's {head:,} apart):",
        pivot(table, "targets", "rank", "parameters", prefix="r = "),
        "Mean over these ranks, in %; the paper's are GPT-3's:",
        mean_over_ranks(table),
        report.settings(group),
    ]


def mean_over_ranks(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["score", *[f"paper {data}" for data in paper.lora.DATASETS]]
    means = table.groupby("targets", sort=False)[columns].mean().round(1)
    return means.reset_index().rename(columns={"score": "ours"})


def published() -> list:
    table = paper.lora.table6()
    shown = []
    for data, part in table.groupby("dataset", sort=False):
        shown.append(f"{data}, accuracy in %:")
        shown.append(pivot(part, "targets", "rank", "value", prefix="r = "))
    return shown


def table6_claims(table: pd.DataFrame) -> list[Claim]:
    """The choice of matrices matters, the rank little."""
    parts = dict(list(table.groupby("targets", sort=False)))
    result = []
    for better, worse in (TARGETS[1::-1], TARGETS[:0:-1]):
        if better in parts and worse in parts:
            statement = f"{{{better}}} is above {{{worse}}}, mean over ranks"
            means = [mean_score(parts[targets]) for targets in (better, worse)]
            result.append(claims.difference(SOURCE, statement, *means))
    for targets in sorted(parts):
        part = parts[targets]
        low, high = part.iloc[0], part.iloc[-1]
        statement = (
            f"r = {low['rank']} does as well as r = {high['rank']} with {{{targets}}}"
        )
        ours, other = Score(low.score, low.error), Score(high.score, high.error)
        result.append(claims.no_worse(SOURCE, statement, ours, other))
    return result


def mean_score(part: pd.DataFrame) -> Score:
    error = math.sqrt((part.error**2).sum(skipna=False)) / len(part)
    return Score(part.score.mean(), error)


def figure(table: pd.DataFrame) -> Figure:
    """Score against r for each set of targets; the paper's two panels beside it."""
    panels = []
    for data in paper.lora.DATASETS:
        part = paper.lora.table6().query("dataset == @data")
        lines = plots.by_label(part, "targets", x="rank", y="value", error="std")
        panels.append(plots.Panel(lines, f"Paper: GPT-3 175B, {data}", "accuracy, %"))
    first = table.iloc[0]
    metric = first.metric.replace("/", " ")
    return plots.lines_with_errors(
        plots.by_label(table, "targets", x="rank", y="score", error="error"),
        title=f"{first.model}, {first.data}",
        xlabel="rank r",
        ylabel=f"{metric}, %",
        beside=panels,
    )


EXPERIMENT = Experiment(
    "rank_sweep", PRESETS, measurements, show, description=__doc__, keep=True
)

if __name__ == "__main__":
    EXPERIMENT.script()
