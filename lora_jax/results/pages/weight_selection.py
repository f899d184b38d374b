"""The page of LoRA's Table 5: sets of attention matrices that cost the same.

Scores are accuracies in %. A table of scores is one of `results.scores` with the
paper's columns beside, as `paper.lora.beside` adds them.
"""

import math
from typing import Any

import pandas as pd

from lora_jax import paper
from lora_jax.results import claims, plots, report
from lora_jax.results.arranging import plus_minus
from lora_jax.results.claims import Claim
from lora_jax.results.report import Block
from lora_jax.results.sweeps import RATE, SweepGroup

SOURCE = "LoRA Table 5"
BOTH = "query,value"  # "gives the best performance overall", says the paper


def blocks(sweep: SweepGroup, table: pd.DataFrame) -> list[Block]:
    """Return what a section shows: scores, what `BOTH` gains, and the settings."""
    group = sweep.group
    # Of one seed the error is another than of several.
    error_kind = table["error of"].iloc[0]
    return [
        *report.warning(group),
        report.measured_on(group, error_kind),
        score_table(table),
        *sweep.notes,
        f"What {{{BOTH}}} gains over each other set, in points:",
        gain_table(table),
        report.settings(group),
    ]


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return each set's rank, parameters and scores as text, ours and the paper's.

    ± is a standard error of ours, and a standard deviation of the paper's.
    """
    columns: dict[str, Any] = {
        "targets": table["targets"],
        "r": table["rank"],
        "parameters": table["parameters"],
    }
    # Where all lines share one it is in the settings.
    if RATE in table:
        columns["learning rate"] = table[RATE].map("{:g}".format)
    columns["ours"] = plus_minus(table["score"], table["error"])
    for dataset in paper.lora.DATASETS:
        name = f"paper {dataset}"
        # A set that the paper does not have is an empty cell.
        scores = table[name]
        deviations = table[f"{name} std"]
        columns[name] = plus_minus(scores, deviations)
    return pd.DataFrame(columns)


def gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return what `BOTH` gains over each other set, in points.

    Ours has the standard error of the difference, the paper's has none. Without a line
    of `BOTH` the table is empty.
    """
    lines = table.set_index("targets")
    if BOTH not in lines.index:
        return pd.DataFrame()
    both = lines.loc[BOTH]
    others = lines.drop(BOTH)
    # Braces, because a set's name may have commas.
    names = [f"{{{name}}}" for name in others.index]
    columns = {"against": names}
    columns["ours"] = _our_gains(both, others)
    # Of the paper's scores no standard error is known.
    unknown = [math.nan] * len(others)
    for dataset in paper.lora.DATASETS:
        name = f"paper {dataset}"
        differences = both[name] - others[name]
        columns[name] = plus_minus(differences, unknown, sign="+")
    return pd.DataFrame(columns)


def _our_gains(both: Any, others: pd.DataFrame) -> list[str]:
    """`+11.0 ± 1.0` for each of the other sets; `both` is the line of `BOTH`."""
    ours = claims.line_score(both)
    differences = []
    errors = []
    for _, line in others.iterrows():
        other = claims.line_score(line)
        differences.append(ours.value - other.value)
        # Both scores vary, so the difference has both errors.
        errors.append(math.hypot(ours.error, other.error))
    return plus_minus(differences, errors, sign="+")


def table5_claims(table: pd.DataFrame, suffix: str = "") -> list[Claim]:
    """Return the claims of Table 5: `BOTH` is above either of query and key alone.

    `suffix` says of each claim which learning rates it holds for.
    """
    scores = {}
    for _, line in table.iterrows():
        scores[line["targets"]] = claims.line_score(line)
    result = []
    for other in ("query", "key"):
        # A user may have trained other sets.
        if BOTH in scores and other in scores:
            statement = f"{{{BOTH}}} is above {{{other}}} at one budget{suffix}"
            claim = claims.difference(SOURCE, statement, scores[BOTH], scores[other])
            result.append(claim)
    return result


def figure(table: pd.DataFrame) -> plots.Figure:
    """Draw a bar for each set of matrices, ours and the paper's."""
    datasets = paper.lora.DATASETS
    label = "adapted attention matrices"
    return plots.bars_beside_paper(table, datasets, x="targets", xlabel=label)
