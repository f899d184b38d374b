"""Tables as text: pipe tables of Markdown, and durations in words."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lora_jax.results.arranging import check_columns

MAX_DECIMALS = 3  # of a number whose column says nothing else
MIN_WIDTH = 3  # characters of a column: Markdown wants three dashes under a name

# A number, perhaps with thousands separators, a sign, an error and a unit of time.
NUMERIC = re.compile(r"[+\-−]?[\d,.]+(e[+-]?\d+)?( ± [\d.]+)?( (s|min|h|%).*)?$")


def table(frame: pd.DataFrame, digits: int | Mapping[str, int] | None = None) -> str:
    """Return a padded pipe table; numbers are right-aligned, missing values empty.

    `digits` are the decimals of floats, for all columns or by column; without them a
    float has at most three and no trailing zeros. Whole numbers have thousands
    separators.

    Raises:
        ValueError: `digits` names a column that the table does not have.
    """
    if isinstance(digits, Mapping):
        digits_by_column = digits
        default = None
    else:
        digits_by_column = {}
        default = digits
    check_columns(list(digits_by_column), frame)
    columns = []
    for name in frame.columns:
        decimals = digits_by_column.get(name, default)
        columns.append(_column(str(name), frame[name], decimals))
    # Columns to lines.
    lines = []
    for cells in zip(*columns, strict=True):
        line = " | ".join(cells)
        lines.append(f"| {line} |\n")
    return "".join(lines)


def clock(seconds: float) -> str:
    """Return a duration as `12 s`, `3 min 20 s` or `2 h 05 min`."""
    rounded = round(seconds)
    if rounded < 100:
        return f"{rounded} s"
    minutes, seconds_left = divmod(rounded, 60)
    if minutes < 100:
        return f"{minutes} min {seconds_left:02d} s"
    # Of hours the seconds no longer matter.
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min"


def _column(name: str, values: pd.Series, decimals: int | None) -> list[str]:
    """The cells of a column, padded to one width, with the rule under its name."""
    if decimals is None:
        decimals = _decimals(values)
    cells = [_cell(value, decimals) for value in values]
    is_numeric = _is_numeric(cells)
    texts = [_escaped(name), *cells]
    width = max(MIN_WIDTH, *map(len, texts))
    rule = "-" * width
    pad = str.ljust
    if is_numeric:
        # A colon at the end of its rule aligns a column to the right.
        rule = rule[:-1] + ":"
        pad = str.rjust
    padded = [pad(text, width) for text in texts]
    # The name, the rule, then the cells.
    padded.insert(1, rule)
    return padded


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether all cells that are not empty are numbers, and there is one."""
    filled = list(filter(None, cells))
    # A column of nothing is text.
    if not filled:
        return False
    return all(map(NUMERIC.match, filled))


def _decimals(values: pd.Series) -> int:
    """The fewest decimals that show every float of a column, at most three."""
    decimals = 0
    for value in values:
        # Whole numbers have none, and what is missing is not shown.
        if not isinstance(value, float) or math.isnan(value):
            continue
        text = f"{value:.{MAX_DECIMALS}f}"
        fraction = text.partition(".")[2]
        needed = fraction.rstrip("0")
        decimals = max(decimals, len(needed))
    return decimals


def _cell(value: Any, decimals: int) -> str:
    if value is None:
        return ""
    if value is pd.NA:
        return ""
    if isinstance(value, float):
        return _number(value, decimals)
    # A bool is an integer to pandas.
    if isinstance(value, bool):
        return str(value)
    if pd.api.types.is_integer(value):
        return f"{value:,}"
    return _escaped(str(value))


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return ""
    smallest = 0.5 * 10**-decimals
    # Smaller numbers would read 0.
    if 0 < abs(value) < smallest:
        return f"{value:.{MAX_DECIMALS}g}"
    return f"{value:,.{decimals}f}"


def _escaped(text: str) -> str:
    """The text in one line of a pipe table."""
    one_line = text.replace("\n", " ")
    return one_line.replace("|", "\\|")
