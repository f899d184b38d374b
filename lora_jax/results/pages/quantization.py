"""The page on what a base's format costs in score: QLoRA's Tables 2 to 4.

A row has a format as `type` and one of two parts. *Alone* is a model that was trained
in full and then quantized; *lora* is an adapter that was trained on the quantized base.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lora_jax import paper
from lora_jax.results import claims, plots
from lora_jax.results.claims import Claim, Score
from lora_jax.results.pages import format_names
from lora_jax.results.pages.format_names import row_name
from lora_jax.results.summary import (
    Group,
    groups,
    plus_minus,
    scores,
    split_by,
    with_names,
)

ALONE = "alone"
LORA = "lora"
# The columns of the two parts.
TITLES = {ALONE: "alone", LORA: "LoRA"}
# What the two parts are called in the figure's legend.
LABELS = {
    "alone": "alone: fine-tuned, then quantized",
    "LoRA": "LoRA: on the quantized base",
}
# What names a line, on this page and on that of somebody else's rows.
LINE = ("data", "model", "settings", "type")
# In what rows of one page differ. Full fine-tuning has none of LoRA's options.
AXES = (
    *("part", "type", "seed", "quantize", "compute", "method", "learning_rate"),
    *("targets", "rank", "alpha", "bias", "dropout", "init", "rank_stabilized"),
    "layers",
)


class FormatClaim(NamedTuple):
    """A statement of the paper on two formats."""

    source: str
    statement: str
    test: Callable[[str, str, Score, Score], Claim]  # of `claims`
    part: str  # the column of scores
    ours: str  # the format that is above the other, or no worse
    other: str


CLAIMS = (
    FormatClaim(
        source="QLoRA Table 2",
        statement="without training NF4 + DQ is better than FP4",
        test=claims.difference,
        part="alone",
        ours="nf4_double",
        other="fp4",
    ),
    FormatClaim(
        source="QLoRA Table 2",
        statement="without training FP4 is better than Int4",
        test=claims.difference,
        part="alone",
        ours="fp4",
        other="int4",
    ),
    FormatClaim(
        source="QLoRA Table 3",
        statement="LoRA on Int8 is as good as on BF16",
        test=claims.no_worse,
        part="LoRA",
        ours="int8",
        other="bf16",
    ),
    FormatClaim(
        source="QLoRA Tables 3, 4",
        statement="LoRA on NF4 + DQ is as good as on BF16",
        test=claims.no_worse,
        part="LoRA",
        ours="nf4_double",
        other="bf16",
    ),
    # Q15 is the number of this sentence in our list of the paper's claims.
    FormatClaim(
        source="QLoRA Table 4 (Q15)",
        statement="LoRA on FP4 is worse than on NF4 + DQ",
        test=claims.difference,
        part="LoRA",
        ours="nf4_double",
        other="fp4",
    ),
    FormatClaim(
        source="QLoRA section 4",
        statement="double quantization costs nothing",
        test=claims.no_worse,
        part="LoRA",
        ours="nf4_double",
        other="nf4",
    ),
)
"""What the paper says about formats, in the order of its tables."""


def score_table(group: Group, formats: Sequence[str]) -> pd.DataFrame:
    """Return a line for each of these formats that has rows, in their order.

    The columns are `type`, and for each part that has rows the score and its error in
    %. Trainings of one part that differ in more, as in their rank, have columns of
    their own, the largest set first.
    """
    rows = group.rows
    format_names.check(rows, formats)
    table = pd.DataFrame({"type": map(row_name, formats)})
    rows_by_part = split_by(rows, ["part"])
    for part, title in TITLES.items():
        if (part,) not in rows_by_part:
            continue
        axes = ("type", "seed", "quantize", "compute")
        for index, alike in enumerate(groups(rows_by_part[(part,)], axes)):
            # The first has the title alone: claims are about it.
            name = f"{title}, {alike.difference}" if index else title
            columns = scores(alike, ["type"])[["type", "score", "error"]]
            columns.columns = pd.Index(["type", name, f"{name} error"])
            table = table.merge(columns, on="type", how="left")
    # Formats without a row in either part have no line.
    is_measured = table.drop(columns="type").notna().any(axis=1)
    table["type"] = list(formats)
    return with_names(table[is_measured].reset_index(drop=True), group)


def text_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return scores with their errors as text, and LoRA's difference from fp32."""
    text = table[["type"]].copy()
    for title in _titles(table):
        text[title] = plus_minus(table[title], table[f"{title} error"])
    score_by_type = table.set_index("type")
    if "LoRA" in table and "fp32" in score_by_type.index:
        difference = table["LoRA"] - score_by_type["LoRA"]["fp32"]
        # Both have the same seeds, so their errors do not tell that of the difference.
        unknown = [np.nan] * len(table)
        text["Δ"] = plus_minus(difference, unknown, sign="+")
    return text


def published_blocks() -> list[str | pd.DataFrame]:
    """Return the paper's scores by format: perplexity, or accuracy in %."""
    trend = "Of other models and tasks: **a trend**. Lower perplexity is better."
    return [trend, paper.qlora.scores_by_format()]


def format_claims(table: pd.DataFrame) -> list[Claim]:
    """Return the paper's statements on formats of which the table has both."""
    line_by_type = table.set_index("type").to_dict("index")
    result = []
    for claim in CLAIMS:
        ours = _score(line_by_type.get(claim.ours, {}), claim.part)
        other = _score(line_by_type.get(claim.other, {}), claim.part)
        # No row, or none in this part.
        if np.isnan(ours.value) or np.isnan(other.value):
            continue
        result.append(claim.test(claim.source, claim.statement, ours, other))
    return result


def score_figure(table: pd.DataFrame) -> plots.Figure:
    """Draw the scores of both parts, in %, as bars for each format."""
    series = {}
    values: list[float] = []
    for title in _titles(table):
        # The column's name, then what it stands for.
        label = LABELS.get(title, title)
        series[label] = (table["type"], table[title], table[f"{title} error"])
        values += list(table[title])
    # Scores differ little: bars start at a multiple of 5, some % below the lowest.
    start = 5 * np.floor((np.nanmin(values) - 3) / 5)
    start = max(0.0, float(start))
    end = float(np.nanmax(values) + 2)
    return plots.bars_with_errors(
        series,
        title=plots.title_of(table),
        xlabel="format of the blocks' matrices",
        ylabel="score, %",
        ylim=(start, end),
    )


def _titles(table: pd.DataFrame) -> list[str]:
    """The columns of scores: those that have an error beside them."""
    return [name for name in table.columns if f"{name} error" in table]


def _score(line: dict, part: str) -> Score:
    """The score of a format in a part, NaN where it has none."""
    value = line.get(part, np.nan)
    error = line.get(f"{part} error", np.nan)
    return Score(value, error)
