"""Columns of tables become examples.

Every row that cannot become one is named, with what was expected in it, and all such
rows of all splits are in one error.
"""

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeGuard

import numpy as np

from lora_jax.data.read_table import Table, raise_problems
from lora_jax.data.task import Examples

# Half of a surrogate pair, which JSON can spell ("\ud83d"): no character, and no
# tokenizer takes it.
# Two halves of a pair are joined by the JSON reader.
SURROGATE = re.compile("[\ud800-\udfff]")
# Decimal, in ASCII: float() would take "1_000", "١" and "infinity" too.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# What is written where there is no finite number.
NO_LABEL = frozenset(["", "nan", "inf", "infinity"])


class Columns(NamedTuple):
    """The names of the columns with the text, the second text if any, and the label."""

    text: str
    pair: str | None
    label: str = "label"

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that hold text."""
        if self.pair is None:
            return (self.text,)
        return (self.text, self.pair)


def make_examples(
    splits: Mapping[str, Table],
    columns: Columns,
    classes: Mapping[str, int] | None,
    *,
    blank: bool = False,
) -> dict[str, Examples]:
    """Return the examples of every split.

    `classes` maps a label as written to its index; None means regression. `blank`
    allows empty texts.

    Raises:
        ValueError: one error for all splits together, with files and rows: columns are
            missing, or else splits are empty, texts are no text, labels are outside
            `classes`, or scores are no finite numbers.
    """
    # Columns first: without them there are no rows to check.
    names = (*columns.texts, columns.label)
    require_columns(splits.values(), names)
    # Then what the rows hold, in all splits.
    problems = []
    for name, table in splits.items():
        if not table.rows:
            problems.append(
                f"{table.file}: no row is in the {name} split; "
                "a column 'split' can say which are"
            )
    for table in splits.values():
        problems += _row_problems(table, columns, classes, blank)
    raise_problems(problems)
    # No split has a problem: all are converted.
    examples = {}
    for name, table in splits.items():
        examples[name] = _table_examples(table, columns, classes)
    return examples


def require_columns(tables: Collection[Table], names: Collection[str]) -> None:
    """Raise one ValueError for all the columns that tables lack.

    It says what columns there are, and which of them looks close.
    """
    problems = []
    for table in tables:
        columns = list(table.columns)
        for name in names:
            if name in columns:
                continue
            close = difflib.get_close_matches(name, columns, 1)
            hint = f" (is {close[0]!r} meant?)" if close else ""
            problems.append(
                f"{table.file}: expected a column {name!r}, "
                f"got {', '.join(columns)}{hint}"
            )
    # Splits may come from one file: its problems are told once.
    raise_problems(list(dict.fromkeys(problems)))


def label_text(label: object) -> str | None:
    """Return a label as the text it is compared by.

    None when it is absent, blank, or not a finite number.
    """
    if label is None:
        return None
    text = str(label).strip()
    word = text.lower().lstrip("+-")
    return None if word in NO_LABEL else text


def is_number(label: object) -> bool:
    """Return whether a label is written as a finite decimal number."""
    text = label_text(label)
    if text is None or not NUMBER.fullmatch(text):
        return False
    return math.isfinite(float(text))  # 1e999 is not


def _row_problems(
    table: Table, columns: Columns, classes: Mapping[str, int] | None, blank: bool
) -> list[str]:
    # GLUE's real pairs have some empty sides; a user's blank text is a mistake.
    is_text = is_clean_text if blank else is_nonblank_text
    problems = []
    for name in columns.texts:
        problems += table.misfits(name, is_text, "some text")
    is_label, expected = _label_check(classes)
    problems += table.misfits(columns.label, is_label, expected)
    return problems


def _label_check(
    classes: Mapping[str, int] | None,
) -> tuple[Callable[[object], bool], str]:
    """The test of a label, and what it expects."""
    if classes is None:
        return is_number, "a number"

    def is_class(label: object) -> bool:
        return label_text(label) in classes

    return is_class, _listed(classes)


def is_clean_text(value: object) -> TypeGuard[str]:
    """Return whether a value is a string of whole characters, maybe empty."""
    if not isinstance(value, str):
        return False
    return SURROGATE.search(value) is None


def is_nonblank_text(value: object) -> bool:
    """Return whether a value is a string with more than white space in it."""
    if not is_clean_text(value):
        return False
    return bool(value.strip())


def _listed(names: Collection[str], limit: int = 10) -> str:
    first = list(names)[:limit]
    text = f"one of {', '.join(first)}"
    if len(names) > limit:
        text += f", ... ({len(names):,} in all)"
    return text


def _table_examples(
    table: Table, columns: Columns, classes: Mapping[str, int] | None
) -> Examples:
    text = table.columns[columns.text]
    pair = None
    if columns.pair is not None:
        pair = table.columns[columns.pair]
    # Checked above: every label is text, and a class or a number.
    labels = [str(label_text(label)) for label in table.columns[columns.label]]
    if classes is None:
        # By way of float64, as Python reads a number from its text.
        label = np.array(labels, float).astype(np.float32)
    else:
        indices = [classes[name] for name in labels]
        label = np.array(indices, np.int32)
    return Examples(text, pair, label)
