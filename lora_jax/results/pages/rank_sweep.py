"""The page of LoRA's Table 6: what the paper says of ranks, and its own accuracies.

A score is an accuracy in %. Its table has a line for each set of matrices and rank, in
order of the rank within a set.
"""

import pandas as pd

from lora_jax import paper
from lora_jax.results import claims, plots, report
from lora_jax.results.arranging import pivot
from lora_jax.results.claims import Claim
from lora_jax.results.report import Block, Section
from lora_jax.results.sweeps import RATE, SweepGroup

SOURCE = "LoRA Table 6"
# A set of matrices that is better in the paper, and the set that it is compared with.
BETTER_SETS = (
    ("query,value", "query"),
    ("query,key,value,output", "query,value"),
)


def blocks(sweep: SweepGroup, table: pd.DataFrame) -> list[Block]:
    """Return what a section shows: scores and rates, parameters, means, the settings."""
    notes: list[Block] = [*sweep.notes]
    if sweep.at_best_rates:
        rates = table[RATE].map("{:g}".format)
        texts = table.assign(text=rates)
        notes += [
            "Learning rate of each line:",
            pivot(texts, "targets", "rank", "text", prefix="r = "),
        ]
    return report.grid_blocks(
        sweep.group, table, down="targets", across="rank", notes=notes
    )


def table6_claims(table: pd.DataFrame, suffix: str = "") -> list[Claim]:
    """Return the claims of Table 6: the matrices matter, and the rank matters little.

    `table` is one of `results.scores`. A claim on a set of matrices that has no line is
    left out. `suffix` says of each claim which learning rates it holds for.
    """
    parts = {}
    for targets, part in table.groupby("targets"):
        parts[str(targets)] = part
    result = []
    # First the sets of matrices, each as the mean over its ranks.
    for better, worse in BETTER_SETS:
        if better in parts and worse in parts:
            statement = f"{{{better}}} is above {{{worse}}}, mean over ranks{suffix}"
            ours = claims.mean_score(parts[better])
            other = claims.mean_score(parts[worse])
            result.append(claims.difference(SOURCE, statement, ours, other))
    # Within a set, the lowest rank is to be no worse than the highest.
    for targets, part in parts.items():
        # One rank, or a method without ranks, compares with nothing.
        if part["rank"].nunique() > 1:
            result.append(_rank_claim(targets, part, suffix))
    return result


def _rank_claim(targets: str, part: pd.DataFrame, suffix: str) -> Claim:
    """The lowest rank does as well as the highest, with one set of matrices."""
    # The table is in order of the rank.
    low = part.iloc[0]
    high = part.iloc[-1]
    statement = (
        f"r = {low['rank']} does as well as r = {high['rank']} with {{{targets}}}"
        f"{suffix}"
    )
    ours = claims.line_score(low)
    other = claims.line_score(high)
    return claims.no_worse(SOURCE, statement, ours, other)


def figure(table: pd.DataFrame) -> plots.Figure:
    """Draw a line for each set of matrices, and the paper's in panels beside."""
    published = paper.lora.table6()
    return plots.lines_beside_paper(
        table, published, by="targets", x="rank", xlabel="rank r"
    )


def paper_sections(published: pd.DataFrame) -> list[Section]:
    """Return a section with the paper's accuracies, in %, for each of its data sets.

    `published` is `paper.lora.table6()`.
    """
    sections = []
    # Sets of matrices go down and ranks across, as in the paper.
    for dataset, part in published.groupby("dataset", sort=False):
        table = pivot(part, "targets", "rank", "value", prefix="r = ")
        title = f"The paper: GPT-3 175B, {dataset}, accuracy in %"
        sections.append(Section(title, [table]))
    return sections
