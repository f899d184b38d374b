"""Tables of scores arranged for a page: order, columns and text."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd


def in_order(
    table: pd.DataFrame, column: str, order: Sequence[Any], then: Sequence[str] = ()
) -> pd.DataFrame:
    """Sort by a column in the order of the values passed, others last; then by more."""
    positions = {}
    for position, value in enumerate(order):
        positions[value] = position
    ranks = table[column].map(positions)
    # Other values come after all of these.
    ranks = ranks.fillna(len(positions))
    # A column for the time of sorting alone.
    ranked = table.assign(_order=ranks)
    ordered = ranked.sort_values(
        ["_order", column, *then],
        kind="stable",
        ignore_index=True,
    )
    return ordered.drop(columns="_order")


def means(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Average our score and the paper's over the lines with one value of a column."""
    columns = ["score"]
    for name in map(str, table):
        # A mean of standard deviations would mean nothing.
        if name.startswith("paper ") and not name.endswith(" std"):
            columns.append(name)
    grouped = table.groupby(by, sort=False)
    averages = grouped[columns].mean()
    averages = averages.rename(columns={"score": "ours"})
    return averages.reset_index()


def pivot(
    table: pd.DataFrame, index: str, columns: str, values: str, prefix: str = ""
) -> pd.DataFrame:
    """Spread a column: `index` down, `columns` across, in the order of the table."""
    order = table[index].drop_duplicates()
    wide = table.pivot(index=index, columns=columns, values=values)
    # pandas sorts the lines by their names.
    wide = wide.loc[order]
    titles = []
    for name in wide.columns:
        # A method may lack the setting, as a rank.
        titles.append("score" if pd.isna(name) else f"{prefix}{name}")
    wide.columns = pd.Index(titles)
    return wide.reset_index()


def plus_minus(
    scores: Iterable[float], errors: Iterable[float], digits: int = 1, sign: str = ""
) -> list[str]:
    """Format `79.7 ± 0.3`; without a known error the score, without a score nothing."""
    number = f".{digits}f"
    texts = []
    for score, error in zip(scores, errors, strict=True):
        # No run has finished.
        if math.isnan(score):
            texts.append("")
            continue
        text = format(score, sign + number)
        if not math.isnan(error):
            text += " ± " + format(error, number)
        texts.append(text)
    return texts


def check_columns(names: Sequence[str], table: pd.DataFrame) -> None:
    """Raise a ValueError with the columns there are, unless it has all the names."""
    unknown = []
    for name in names:
        if name not in table.columns:
            unknown.append(name)
    if unknown:
        listed = ", ".join(map(repr, unknown))
        candidates = ", ".join(map(str, table.columns))
        raise ValueError(f"unknown column {listed}; there are {candidates}")
