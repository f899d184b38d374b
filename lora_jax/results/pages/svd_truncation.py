"""The page on truncated updates: what is left of a score when ΔW keeps k directions.

Its table has a line for each training and k: the score in %, and what the truncation
took away. The lines of a training have one name in the column `series`, are in order
of k, and end with all directions.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lora_jax.results import claims, plots, report
from lora_jax.results.arranging import plus_minus
from lora_jax.results.claims import Claim
from lora_jax.results.grouping import Group
from lora_jax.results.report import Block
from lora_jax.results.summary import Column, metric_table, scores

SOURCE = "LoRA sections 1, 4.1"
# What tells one training from another on this page.
TRAINING = ("method", "targets", "rank", "learning_rate")
# Options of LoRA's alone: rows of full fine-tuning do not have them.
LORA_OPTIONS = ("alpha", "bias", "dropout", "init", "rank_stabilized", "layers")
AXES = (*TRAINING, *LORA_OPTIONS, "seed", "k")
"""The settings in which the rows of one section differ."""

# What a truncation takes away, as `analysis.truncation_loss` names it.
LOSSES = ("relative_error", "energy", "effective_rank")
FEW = 2  # directions that are to be enough: "1 or 2", says the paper


def truncation_table(group: Group) -> pd.DataFrame:
    """Return a line for each training and k: LoRA first, then by name and k."""
    by = [*TRAINING, "k"]
    table = scores(group, by)
    # Full fine-tuning has no rank and no targets: these are empty.
    columns = [Column(f"delta/{name}", name) for name in LOSSES]
    losses = metric_table(group, by, columns)
    for name in LOSSES:
        table[name] = losses[name]
    table["series"] = table.apply(_series_name, axis="columns")
    return table.sort_values(
        ["method", "series", "k"],
        ascending=[False, True, True],
        ignore_index=True,
    )


def _series_name(line: Any) -> str:
    name = "full fine-tuning"
    if line["method"] == "lora":
        name = f"LoRA r = {line['rank']:.0f} ({line['targets']})"
    return f"{name}, lr {line['learning_rate']:g}"


def blocks(group: Group, table: pd.DataFrame) -> list[Block]:
    """Return what a section shows: for each training a table and a sentence on it."""
    result: list[Block] = [*report.warning(group)]
    error_kind = table["error of"].iloc[0]
    result.append(report.measured_on(group, error_kind))
    for name, part in table.groupby("series", sort=False):
        result.append(f"### {name}")
        result.append(text_table(part))
        result.append(sufficient_rank(part))
    result.append(report.settings(group))
    return result


def text_table(part: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of one training as text."""
    ks = [str(k) for k in part["k"]]
    # The last line is the training as it was.
    ks[-1] += " (all)"
    columns = {
        "k": ks,
        "parameters": part["parameters"],
    }
    score = part["score"]
    error = part["error"]
    columns["score"] = plus_minus(score, error)
    # Shares of ‖ΔW‖ and of ‖ΔW‖².
    for name in ("relative_error", "energy"):
        title = name.replace("_", " ")
        texts = [f"{value:.3f}" for value in part[name]]
        columns[title] = texts
    return pd.DataFrame(columns)


def sufficient_rank(part: pd.DataFrame) -> str:
    """Return a sentence on the k from which on the score is that of the whole ΔW.

    It is the first after the last score that is lower by more than one standard error.
    Without an error the sentence is on the effective rank alone.
    """
    full = part.iloc[-1]
    rank = full["effective_rank"]
    text = (
        "The effective rank of a ΔW (from the entropy of its singular values) is "
        f"{rank:.1f} of {full['k']}, mean over matrices."
    )
    score = full["score"]
    error = full["error"]
    if math.isnan(error):
        return text
    first = _first_sufficient(part, score - error)
    k = first["k"]
    missing = 100 * first["relative_error"]
    return (
        f"{text} **From k = {k} on the score stays within one standard error "
        f"({error:.1f}) of the whole ΔW's {score:.1f}**; the top {k} miss "
        f"{missing:.0f} % of ΔW's norm."
    )


def _first_sufficient(part: pd.DataFrame, bound: float) -> Any:
    """The line from which on no score is below the bound."""
    lines = [line for _, line in part.iterrows()]
    first = lines[0]
    # A score that is high by chance does not count if a later one is low.
    for line, following in itertools.pairwise(lines):
        if line["score"] < bound:
            first = following
    return first


def truncation_claims(table: pd.DataFrame) -> list[Claim]:
    """Return for each training whether its top 2 directions do as well as all.

    Where none (k = 0) do as well too, nothing is said of two.
    """
    result = []
    for name, part in table.groupby("series", sort=False):
        by_k = {}
        for _, line in part.iterrows():
            by_k[line["k"]] = claims.line_score(line)
        # A training whose rows are not all there yet has no claim.
        if FEW in by_k and len(by_k) > 1:
            result.append(_few_directions_claim(str(name), by_k))
    return result


def _few_directions_claim(name: str, by_k: dict[int, claims.Score]) -> Claim:
    """The claim on one training, from its scores by k."""
    full = by_k[max(by_k)]
    statement = f"the top {FEW} directions of ΔW do as well as all: {name}"
    claim = claims.no_worse(SOURCE, statement, by_k[FEW], full)
    if 0 not in by_k:
        return claim
    none = by_k[0]
    evidence = f"{claim.evidence}, {none.value:.1f} without any"
    # Where no direction does as well, there is nothing to be kept.
    verdict = claim.verdict
    control = claims.no_worse(SOURCE, statement, none, full)
    if control.verdict == claims.REPRODUCED:
        verdict = claims.WITHIN_ERROR
    return claim._replace(evidence=evidence, verdict=verdict)


def figures(table: pd.DataFrame) -> dict[str, plots.Figure]:
    """Draw the score, and the relative error, against k; a dotted line is k = 0.

    Without a k above 0 there is no figure.
    """
    # k = 0 has no place on a logarithmic axis.
    kept = table[table["k"] > 0]
    if kept.empty:
        return {}
    # Relative errors are computed, not estimated.
    exact = kept.assign(exact=np.nan)
    errors = plots.by_label(exact, "series", x="k", y="relative_error", error="exact")
    panel = plots.Panel(errors, "What is missing", "relative error, ‖ΔW - ΔW_k‖ / ‖ΔW‖")
    first = table.iloc[0]
    metric = first["metric"].replace("/", " ")  # `test accuracy`
    series = plots.by_label(kept, "series", x="k")
    figure = plots.lines_with_errors(
        series,
        title=f"{plots.title_of(table)} (dotted: k = 0)",
        xlabel="singular directions kept, k",
        ylabel=f"{metric}, %",
        beside=[panel],
    )
    _draw_scores_at_0(figure, table, list(series))
    return {"": figure}


def _draw_scores_at_0(
    figure: plots.Figure, table: pd.DataFrame, names: Sequence[str]
) -> None:
    """Draw a dotted line in the color of each series that has a score at k = 0."""
    at_0 = table[table["k"] == 0]
    for _, line in at_0.iterrows():
        name = line["series"]
        score = line["score"]
        # A series without a k above 0 is not in the figure.
        if name in names:
            plots.horizontal_line(figure, score, name, list(names))
