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
from lora_jax.results.pages.format_names import row_name
from lora_jax.results.rows import Row
from lora_jax.results.summary import groups, plus_minus, scores, split_by

ALONE = "alone"
LORA = "lora"
# The columns of the two parts.
TITLES = {ALONE: "alone", LORA: "LoRA"}
# What the two parts are called in the figure's legend.
LABELS = {"alone": "fine-tuned, then quantized", "LoRA": "LoRA on the quantized base"}
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


def score_table(rows: Sequence[Row], formats: Sequence[str]) -> pd.DataFrame:
    """Return a line for each of these formats that has rows, in their order.

    The columns are `type`, and for each part that has rows the score and its error in
    %, of the part's largest group.
    """
    table = pd.DataFrame({"type": map(row_name, formats)})
    rows_by_part = split_by(rows, ["part"])
    for part, title in TITLES.items():
        if (part,) not in rows_by_part:
            continue
        axes = ("type", "seed", "quantize", "compute")
        group = groups(rows_by_part[(part,)], axes)[0]
        columns = scores(group, ["type"])[["type", "score", "error"]]
        columns.columns = pd.Index(["type", title, f"{title} error"])
        table = table.merge(columns, on="type", how="left")
    # Formats without a row in either part have no line.
    is_measured = table.drop(columns="type").notna().any(axis=1)
    table["type"] = list(formats)
    return table[is_measured].reset_index(drop=True)


def text_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return scores with their errors as text, and LoRA's difference from fp32."""
    text = table[["type"]].copy()
    for title in TITLES.values():
        if title in table:
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
    for part, label in LABELS.items():
        if part in table:
            series[label] = (table["type"], table[part], table[f"{part} error"])
            values += list(table[part])
    # Scores differ little: bars start at a multiple of 5, some % below the lowest.
    start = 5 * np.floor((np.nanmin(values) - 3) / 5)
    start = max(0.0, float(start))
    remark = f" (bars start at {start:.0f})" if start else ""
    end = float(np.nanmax(values) + 2)
    return plots.bars_with_errors(
        series,
        title=table["model"].iloc[0],
        xlabel="format of the blocks' matrices",
        ylabel=f"score, %{remark}",
        ylim=(start, end),
    )


def _score(line: dict, part: str) -> Score:
    """The score of a format in a part, NaN where it has none."""
    value = line.get(part, np.nan)
    error = line.get(f"{part} error", np.nan)
    return Score(value, error)
