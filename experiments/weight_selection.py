"""LoRA Table 5: given a budget of parameters, which attention matrices should be adapted?

This trains adapters of {q}, {k}, {v}, {o}, {q, k}, {q, v} and {q, k, v, o}, each at the
highest rank that the budget pays for. Hu et al. 2021 (arXiv 2106.09685v2), section 7.1,
did so with GPT-3 175B and 18M parameters (r = 8 on one matrix of each block) on WikiSQL
and MultiNLI. The paper's accuracies stand beside ours, in % with their standard
deviations. Here the model is a sentence encoder of 22.7 M parameters and the data are
film reviews: **compare the order, not the values**.

    python experiments/weight_selection.py                   # 24 runs of 45 s
    python experiments/weight_selection.py --budget 73728    # another budget
    python experiments/weight_selection.py --learning-rate auto  # the best of 3 rates
    python experiments/weight_selection.py --preset full     # all rows, five seeds
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lora_jax import paper, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets, sweep
from lora_jax.experiment.budget import ranks_within
from lora_jax.results import Comparison, Report, Section, claims, pictures
from lora_jax.results.pages import weight_selection as page
from lora_jax.results.pages.needs import weight_selection as needs
from lora_jax.results.sweeps import sweep_groups

# In the order of the paper's table.
TARGETS = (
    "query",
    "key",
    "value",
    "output",
    "query,key",
    "query,value",
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
    learning_rate: float | Literal["auto"] = presets.QUICK.train.learning_rate
    """Highest learning rate. auto trains everything at three, 0.5, 1 and 5 times the
    preset's, and shows each line at the one with the best validation score."""
    baseline: bool = True
    """Also train the head alone, without an adapter: what all lines have to beat."""


PRESETS = {
    # Two seeds are the fewest that have a standard error over seeds.
    "smoke": (Options(seeds=(0, 1)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2, 3, 4)), presets.FULL),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    """One row for each training, of each seed, set of matrices and learning rate."""
    rates = sweep.learning_rates(base, options.learning_rate)
    # Of all sets together, so that a set that does not fit is an error at once.
    budget, ranks = ranks_within(options.budget, base, options.targets, benches)
    runs = []
    for seed in options.seeds:
        for targets, rank in ranks.items():
            runs.append(base.changed(targets=targets, rank=rank, seed=seed))
    if options.baseline:
        runs += sweep.head_runs(base, options.seeds, benches)
    # The budget is not a setting of the training: the row adds it.
    return sweep.measurements(runs, rates, {"budget": budget})


def show(rows: list) -> Report:
    """A section for each model, data and budget; ours and the paper's side by side."""
    published = paper.lora.table5()
    sections = []
    tables = []
    # Lines at their best rates come first, then the largest group.
    groups = sweep_groups(rows)
    for group in groups:
        scores = group.table
        budget = group.settings["budget"]
        # After the data, the model and the method.
        scores.insert(3, "budget", budget)
        scores = results.in_order(scores, "targets", TARGETS)
        table = paper.lora.beside(scores, published, on=["targets"])
        title = f"{group.name}, {budget:,} parameters"
        sections.append(Section(title, page.blocks(group, table)))
        tables.append(table)
    # Claims say at which learning rates they hold.
    pairs = [
        (table, group.claim_suffix) for table, group in zip(tables, groups, strict=True)
    ]
    return Report(
        title="Which matrices to adapt, given a budget",
        intro=__doc__,
        sections=sections,
        claims=claims.of_groups(groups, pairs, lambda pair: page.table5_claims(*pair)),
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.figure),
        comparison=Comparison(by=("data", "model", "budget", "targets", "rank")),
    )


EXPERIMENT = Experiment(
    "weight_selection", PRESETS, measurements, show, __doc__, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
