"""LoRA Table 18: which rank is enough for a language model that writes from data?

Trains {query, value} at r = 1, 4 and 16 to put E2E's records into words, and scores
what is written by beam search against all references. Hu et al. 2021 (arXiv
2106.09685v2), section H.2, did so with GPT-2 medium at r = 1 … 1024, on all rows for
five epochs. Ours is SmolLM2-135M on its own 4-bit weights, on 512 of 42,061 rows and 48
of 630 test sources: **compare the trend, not the values**. Where E2E is neither
supplied nor downloadable, film reviews take its place.

    python experiments/rank_sweep_nlg.py --data-dir e2e-dataset.zip  # 3 runs: 13 min
    python experiments/rank_sweep_nlg.py --preset full               # all rows, 6 ranks
    python experiments/rank_sweep_nlg.py --data FILE.csv  # columns source and target
    python experiments/rank_sweep_nlg.py --preset paper --dry-run    # GPT-2 medium
"""

import math
from dataclasses import dataclass
from typing import Any

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
from lora_jax.results import (
    Comparison,
    Report,
    Section,
    method_summary,
    method_tables,
    plots,
    report,
)


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
    run = fallback.available(base) if options.fallback else base
    axes = {"targets": options.targets, "rank": options.ranks}
    runs = grid(run, seed=options.seeds, **axes)
    return [Measurement((run,)) for run in runs]


def show(rows: list) -> Report:
    published = paper.lora.table18()
    sections = []
    tables = []
    groups = results.groups(rows, axes=("targets", "rank", "seed"))
    for group in groups:
        table = method_summary.summary(group)
        table = table.sort_values(["targets", "rank"], ignore_index=True)
        # The paper's numbers are of E2E: beside other data they would mislead.
        if group.settings["data"] == "e2e":
            table = beside_table18(table, published)
        sections.append(Section(group.name, blocks(group, table)))
        tables.append(table)
    return Report(
        title="Rank sweep of a language model",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        figures={"": figure(tables[0], published)},
        comparison=Comparison(
            by=("data", "model", "settings", "targets", "rank"),
            tolerance=method_tables.TOLERANCE,
        ),
    )


def beside_table18(table: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Our lines with the paper's scores of the same matrices and rank beside them."""
    names = {}
    for metric in published.columns.drop(["targets", "rank"]):
        if metric in table:
            names[metric] = f"paper {metric}"
    columns = published[["targets", "rank", *names]].rename(columns=names)
    return table.merge(columns, on=["targets", "rank"], how="left")


def blocks(group: results.Group, table: pd.DataFrame) -> list:
    text = table[["targets", "rank", "parameters"]].copy()
    metrics = method_summary.metric_names(group.first)
    for metric in metrics:
        errors = table[f"{metric} error"]
        text[metric] = results.plus_minus(table[metric], errors, decimals(metric))
    # Table 18 has no standard deviations.
    for metric in metrics:
        column = f"paper {metric}"
        if column in table:
            errors = [math.nan] * len(table)
            text[column] = results.plus_minus(table[column], errors, decimals(metric))
    units = "Loss in nats a token, shares in %."
    if group.settings["data"] == "e2e":
        units += " The paper's numbers are GPT-2 medium's."
    notes = method_tables.notes(group.first, text_metrics.note)
    return [
        *report.warning(group),
        f"{method_tables.sizes(group)} {units}{notes}",
        text,
        report.settings(group),
    ]


def decimals(metric: str) -> int:
    return 3 if metric == method_summary.LOSS else 2


def figure(table: pd.DataFrame, published: pd.DataFrame) -> plots.Figure:
    """The first score against the rank; the paper's, on E2E, beside it."""
    first = table.iloc[0]
    metric = first["metric"]
    label = method_summary.axis_label(metric)
    beside = []
    if metric in published:
        lines: Any = {"query,value": (published["rank"], published[metric], None)}
        beside.append(plots.Panel(lines, "Paper: GPT-2 medium, E2E", label))
    return plots.lines_with_errors(
        plots.by_label(table, "targets", x="rank"),
        title=f"{first['model']}, {first['data']}",
        xlabel="rank r",
        ylabel=label,
        beside=beside,
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
)

if __name__ == "__main__":
    EXPERIMENT.script()
