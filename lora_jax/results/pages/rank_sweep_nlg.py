"""The page of LoRA's Table 18: the rank of a language model that writes from data.

A table has a line for each set of matrices and rank, and a column for each metric, as
`method_summary.summary` returns it. Shares are in %, losses in nats a token.
"""

import math

import pandas as pd

from lora_jax import paper
from lora_jax.results import method_summary, method_tables, plots, report
from lora_jax.results.arranging import plus_minus
from lora_jax.results.grouping import Group
from lora_jax.results.method_tables import Note
from lora_jax.results.report import Block

PAPER_DATA = "e2e"  # Table 18's data set, by our name


def sweep_table(group: Group, published: pd.DataFrame) -> pd.DataFrame:
    """Return our scores, and on E2E the paper's of the same matrices and rank beside.

    `published` is `paper.lora.table18()`; its columns are `paper METRIC` here.
    """
    table = method_summary.summary(group)
    table = table.sort_values(["targets", "rank"], ignore_index=True)
    # The paper's numbers are of E2E: beside other data they would mislead.
    if group.settings["data"] != PAPER_DATA:
        return table
    # Not every machine has all metrics: METEOR needs Java.
    names = {}
    for metric in published.columns.drop(["targets", "rank"]):
        if metric in table:
            names[metric] = f"paper {metric}"
    columns = published[["targets", "rank", *names]]
    columns = columns.rename(columns=names)
    return table.merge(columns, on=["targets", "rank"], how="left")


def blocks(group: Group, table: pd.DataFrame, note: Note) -> list[Block]:
    """Return what a section shows: sizes, scores and settings.

    `note` says in what a metric differs from the papers' own.
    """
    units = "Loss in nats a token, shares in %."
    if group.settings["data"] == PAPER_DATA:
        units += " The paper's numbers are GPT-2 medium's."
    sizes = method_tables.sizes(group)
    notes = method_tables.notes(group.first, note)
    return [
        *report.warning(group),
        f"{sizes} {units}{notes}",
        score_table(group, table),
        report.settings(group),
    ]


def score_table(group: Group, table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores as text: ours with their errors, then the paper's."""
    text = table[["targets", "rank", "parameters"]].copy()
    metrics = method_summary.metric_names(group.first)
    for metric in metrics:
        scores = table[metric]
        errors = table[f"{metric} error"]
        text[metric] = plus_minus(scores, errors, _decimals(metric))
    # The paper's scores stand together, as ours do, and have no errors.
    unknown = [math.nan] * len(table)
    for metric in metrics:
        column = f"paper {metric}"
        if column in table:
            text[column] = plus_minus(table[column], unknown, _decimals(metric))
    return text


def figure(table: pd.DataFrame) -> plots.Figure:
    """Draw the first score against the rank, and the paper's on E2E in a panel beside.

    A score that Table 18 does not have, or of other data, is drawn alone.
    """
    published = paper.lora.table18()
    # All lines have one model, one data set and one first score.
    first = table.iloc[0]
    metric = first["metric"]
    label = method_summary.axis_label(metric)
    panels = []
    if metric in published and first["data"] == PAPER_DATA:
        # Table 18 has no standard deviations.
        without_errors = published.assign(error=math.nan)
        series = plots.by_label(without_errors, "targets", x="rank", y=metric)
        panels.append(plots.Panel(series, "Paper: GPT-2 medium, E2E", label))
    ours = plots.by_label(table, "targets", x="rank")
    return plots.lines_with_errors(
        ours,
        title=plots.title_of(table),
        xlabel="rank r",
        ylabel=label,
        beside=panels,
    )


def _decimals(metric: str) -> int:
    # Losses differ in the third digit.
    return 3 if metric == method_summary.LOSS else 2
