"""Columns of tables become examples.

Every row that cannot become one is named, with what was expected in it, and all such
rows of all splits are in one error.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeGuard

import numpy as np

from lora_jax.data.labels import is_number, label_key, label_text
from lora_jax.data.table import Table, raise_problems
from lora_jax.data.task import Examples

# Half of a surrogate pair, which JSON can spell ("\ud83d"): no character, and no
# tokenizer takes it.
# Two halves of a pair are joined by the JSON reader.
SURROGATE = re.compile("[\ud800-\udfff]")


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
            # Of a file that has none, another column may be meant.
            hint = "; its column 'split' names none" if "split" in table.columns else ""
            problem = f"{table.file}: no row is in the {name} split{hint}"
            problems.append("; ".join((problem, *table.notes)))
    for table in splits.values():
        problems += _row_problems(table, columns, classes, blank)
    raise_problems(problems)
    # No split has a problem: all are converted.
    examples = {}
    for name, table in splits.items():
        examples[name] = _table_examples(table, columns, classes)
    return examples


def named_columns(table: Table, names: Collection[str]) -> Table:
    """Return the table with these names for columns that differ from them in case alone.

    Raises:
        ValueError: two columns could be meant.
    """
    renames: dict[str, str] = {}
    problems = []
    for name in names:
        if name in table.columns:
            continue
        alike = []
        for column in table.columns:
            if column.strip().casefold() == name.casefold():
                alike.append(column)
        if len(alike) > 1:
            problems.append(
                f"{table.file}: expected one column {name!r}, got {', '.join(alike)}"
            )
        elif alike:
            renames[alike[0]] = name
    raise_problems(problems)
    return table.renamed(renames) if renames else table


def require_columns(
    tables: Collection[Table], names: Collection[str], *, has_flags: bool = False
) -> None:
    """Raise one ValueError for all the columns that tables lack.

    It says what columns there are, and which of them looks close. `has_flags` says that
    a flag such as --text-column can name another.
    """
    problems = []
    for table in tables:
        columns = list(table.columns)
        for name in names:
            if name in columns:
                continue
            close = difflib.get_close_matches(name, columns, 1)
            hint = f" (is {close[0]!r} meant?)" if close else ""
            if has_flags:
                hint += f"; --{name}-column names the one that is meant"
            problems.append(
                f"{table.file}: expected a column {name!r}, "
                f"got {', '.join(columns)}{hint}"
            )
    # Splits may come from one file: its problems are told once.
    raise_problems(list(dict.fromkeys(problems)))


def text_problems(
    table: Table, names: Collection[str], *, blank: bool = False
) -> list[str]:
    """Return a problem for each value of these columns that is no text."""
    # GLUE's real pairs have some empty sides; a user's blank text is a mistake.
    is_text = is_clean_text if blank else is_nonblank_text
    problems = []
    for name in names:
        problems += table.misfits(name, is_text, "some text")
    return problems


def _row_problems(
    table: Table, columns: Columns, classes: Mapping[str, int] | None, blank: bool
) -> list[str]:
    problems = text_problems(table, columns.texts, blank=blank)
    is_label, expected = _label_check(classes)
    problems += table.misfits(columns.label, is_label, expected)
    return problems


def _label_check(
    classes: Mapping[str, int] | None,
) -> tuple[Callable[[object], bool], str]:
    """The test of a label, and what it expects."""
    if classes is None:
        return is_number, "a number"

    indices = _indices_by_key(classes)

    def is_class(label: object) -> bool:
        text = label_text(label)
        return text is not None and label_key(text) in indices

    return is_class, _listed(classes)


def _indices_by_key(classes: Mapping[str, int]) -> dict[str, int]:
    # Labels are compared by their keys: Yes is the class yes, and 1.0 is the class 1.
    return {label_key(name): index for name, index in classes.items()}


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
        indices = _indices_by_key(classes)
        label = np.array([indices[label_key(text)] for text in labels], np.int32)
    return Examples(text, pair, label)
