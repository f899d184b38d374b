"""Somebody's own rows held against the reference rows, line by line.

The reference rows are committed with the repository. The page of somebody's own rows
shows both beside each other, and says whether they agree.
"""

import math
from typing import Any, NamedTuple

import pandas as pd

ERRORS_ALLOWED = 2.0  # standard errors of a difference
ROUNDING = 1e-9  # a difference that is equal to what is allowed still agrees
SIDES = ("reference", "yours")


class Comparison(NamedTuple):
    """How two sets of rows are held against each other, by columns of their `data`.

    Two values agree if they differ by at most two standard errors of the difference, or
    by the tolerance, whichever is larger.
    """

    by: tuple[str, ...]  # the columns that name a line
    value: str = "score"
    error: str = "error"  # "" where values have none
    tolerance: float = 0.0
    relative: float = 0.0  # tolerance as a share of the reference's value


def agreement(
    data: pd.DataFrame, reference: pd.DataFrame, comparison: Comparison
) -> pd.DataFrame:
    """Return the lines that both have, and whether they agree.

    The columns are those that name a line, the paper's, then reference, yours,
    difference, allowed and agrees ("yes" or "no").
    """
    by = [name for name in comparison.by if name in data and name in reference]
    published = [name for name in reference if str(name).startswith("paper ")]
    columns = [comparison.value]
    if comparison.error:
        columns.append(comparison.error)
    # Rows of one part of an experiment, as while it runs, may lack the other's scores.
    if not set(columns) <= set(data) & set(reference):
        return pd.DataFrame()
    ours = data[[*by, *columns]].drop_duplicates(by)
    # What the paper has does not depend on the rows: one side is enough.
    theirs = reference[[*by, *published, *columns]].drop_duplicates(by)
    both = theirs.merge(ours, on=by, suffixes=(" of reference", " of yours"))
    lines = []
    for _, line in both.iterrows():
        names = line[[*by, *published]].to_dict()
        lines.append({**names, **_compared(line, comparison)})
    return pd.DataFrame(lines)


def verdict(both: pd.DataFrame, comparison: Comparison) -> str:
    """Return the sentences on a table of `agreement`: how many lines agree, and when."""
    # Nothing in common, as with another model.
    if both.empty:
        return (
            "The reference rows, committed with the repository, have none of these "
            "settings: there is nothing to compare."
        )
    count = int((both["agrees"] == "yes").sum())
    agree = "agree" if count == len(both) else "do not all agree"
    text = (
        f"**Your rows and the reference rows {agree}**: {count} of {len(both)} lines. "
        "A line agrees if it differs by at most two standard errors of the difference"
    )
    if comparison.tolerance:
        text += f", or by {comparison.tolerance:g}"
    if comparison.relative:
        text += f", or by {100 * comparison.relative:g} % of the reference"
    return f"{text}."


def _compared(line: pd.Series, comparison: Comparison) -> dict[str, Any]:
    """Both values of a line, their difference, and whether it is small enough."""
    reference = line[f"{comparison.value} of reference"]
    yours = line[f"{comparison.value} of yours"]
    difference = yours - reference
    # The largest of the three bounds counts.
    allowed = max(
        ERRORS_ALLOWED * _error(line, comparison),
        comparison.tolerance,
        comparison.relative * abs(reference),
    )
    agrees = abs(difference) <= allowed + ROUNDING
    return {
        "reference": reference,
        "yours": yours,
        "difference": difference,
        "allowed": allowed,
        "agrees": "yes" if agrees else "no",
    }


def _error(line: pd.Series, comparison: Comparison) -> float:
    """The standard error of the difference; an error that is not known counts as 0."""
    if not comparison.error:
        return 0.0
    errors = []
    for side in SIDES:
        error = line[f"{comparison.error} of {side}"]
        if not math.isnan(error):
            errors.append(error)
    # The two sides are independent.
    return math.hypot(*errors)
