"""LoRA Table 5: given a budget of parameters, which attention matrices should be adapted?

Trains {q}, {k}, {v}, {o}, {q, k}, {q, v} and {q, k, v, o}, each at the highest rank that
the budget pays for. Hu et al. 2021 (arXiv 2106.09685v2), section 7.1, had GPT-3 175B and
18M parameters (r = 8 on one matrix of each block) on WikiSQL and MultiNLI; beside them
stand accuracies in % with their standard deviations. Ours is a sentence encoder of
22.7 M parameters on film reviews: **compare the order, not the values**.

    python experiments/weight_selection.py                   # 21 runs of 45 s
    python experiments/weight_selection.py --budget 73728    # another budget
    python experiments/weight_selection.py --preset full     # all rows, five seeds
"""

import math
from dataclasses import dataclass

import pandas as pd

from lora_jax import paper, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets
from lora_jax.experiment.budget import ranks_within
from lora_jax.results import Claim, Comparison, Report, Section, claims, plots, report

SOURCE = "LoRA Table 5"
BOTH = "query,value"  # "gives the best performance overall", says the paper
TARGETS = (
    "query",
    "key",
    "value",
    "output",
    "query,key",
    BOTH,
    "query,key,value,output",
)


@dataclass(frozen=True)
class Options:
    targets: tuple[str, ...] = TARGETS
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    budget: int = 0
    """Trainable parameters of the adapter, without the head's. 0 is what r = 8 on one
    attention matrix costs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


PRESETS = {
    "smoke": (Options(seeds=(0, 1)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2, 3, 4)), presets.FULL),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    budget, ranks = ranks_within(options.budget, base, options.targets, benches)
    items = []
    for seed in options.seeds:
        for targets, rank in ranks.items():
            run = base.changed(targets=targets, rank=rank, seed=seed)
            items.append(Measurement((run,), {"budget": budget}))
    return items


def show(rows: list) -> Report:
    sections = []
    tables = []
    for group in results.groups(rows, axes=("targets", "rank", "seed")):
        scores = results.scores(group, by=("targets", "rank"))
        scores.insert(3, "budget", group.settings["budget"])
        scores = results.in_order(scores, "targets", TARGETS)
        table = paper.lora.beside(scores, paper.lora.table5(), on=["targets"])
        title = f"{group.name}, {group.settings['budget']:,} parameters"
        sections.append(Section(title, blocks(group, table)))
        tables.append(table)
    return Report(
        title="Which matrices to adapt, given a budget",
        intro=__doc__,
        sections=sections,
        claims=table5_claims(tables[0]),
        data=pd.concat(tables),
        figures={"": figure(tables[0])},
        comparison=Comparison(by=("data", "model", "budget", "targets", "rank")),
    )


def blocks(group: results.Group, table: pd.DataFrame) -> list:
    text = pd.DataFrame({"targets": table.targets, "r": table["rank"]})
    text["parameters"] = table.parameters
    text["ours"] = results.plus_minus(table.score, table.error)
    for dataset in paper.lora.DATASETS:
        column = f"paper {dataset}"
        text[column] = results.plus_minus(table[column], table[f"{column} std"])
    return [
        *report.warning(group),
        report.measured_on(group, table["error of"].iloc[0]),
        text,
        f"What {{{BOTH}}} gains over each other set, in points:",
        gains(table),
        report.settings(group),
    ]


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Ours with the standard error of the difference, the paper's without."""
    lines = table.set_index("targets")
    if BOTH not in lines.index:
        return pd.DataFrame()
    both = claims.line_score(lines.loc[BOTH])
    paper_both = lines.loc[BOTH]
    others = lines.drop(BOTH)
    errors = [math.hypot(both.error, error) for error in others.error]
    names = [f"{{{name}}}" for name in others.index]
    # Both scores vary, so the difference has both errors.
    gain = {"against": names}
    gain["ours"] = results.plus_minus(both.value - others.score, errors, sign="+")
    for dataset in paper.lora.DATASETS:
        column = f"paper {dataset}"
        unknown = [math.nan] * len(others)
        difference = paper_both[column] - others[column]
        gain[column] = results.plus_minus(difference, unknown, sign="+")
    return pd.DataFrame(gain)


def table5_claims(table: pd.DataFrame) -> list[Claim]:
    """Both query and value are above either of query and key alone."""
    lines = table.set_index("targets")
    result = []
    for other in ("query", "key"):
        if {BOTH, other} <= set(lines.index):
            statement = f"{{{BOTH}}} is above {{{other}}} at one budget"
            both = claims.line_score(lines.loc[BOTH])
            alone = claims.line_score(lines.loc[other])
            result.append(claims.difference(SOURCE, statement, both, alone))
    return result


def figure(table: pd.DataFrame) -> plots.Figure:
    """A bar for each set of matrices, ours and the paper's."""
    return plots.bars_beside_paper(
        table, paper.lora.DATASETS, x="targets", xlabel="adapted attention matrices"
    )


EXPERIMENT = Experiment(
    "weight_selection", PRESETS, measurements, show, description=__doc__
)

if __name__ == "__main__":
    EXPERIMENT.script()
