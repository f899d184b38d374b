"""Columns of tables become examples; every row that cannot be one is named, with what was expected there."""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from lora_jax.data.read_table import Table, refuse
from lora_jax.data.task import Examples

SURROGATE = re.compile("[\ud800-\udfff]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Columns(NamedTuple):
    """The names of the columns that hold the text, the second text if there is one, and the label."""

    text: str
    pair: str | None
    label: str = "label"

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)


def examples(
    splits: Mapping[str, Table],
    columns: Columns,
    classes: Mapping[str, int] | None,
    *,
    blank: bool = False,
) -> dict[str, Examples]:
    """The examples of every split. `classes` maps a label as written to its index; None means regression.

    `blank` lets a text be empty. Raises one ValueError for all splits together, naming files and rows: missing columns,
    or else empty splits, texts that are no text, labels outside `classes`, and scores that are no finite number.
    """
    require(splits.values(), (*columns.texts, columns.label))
    expected = "a number" if classes is None else _listed(classes)
    fits = is_number if classes is None else lambda label: written(label) in classes
    empty = [(table.file, name) for name, table in splits.items() if not table.rows]
    problems = [
        f"{file}: no row is in the {name} split; a column 'split' can say which are"
        for file, name in empty
    ]
    for table in splits.values():
        fits_text = partial(_is_text, blank=blank)
        problems += [
            line
            for name in columns.texts
            for line in table.misfits(name, fits_text, "some text")
        ]
        problems += table.misfits(columns.label, fits, expected)
    refuse(problems)
    return {name: _examples(table, columns, classes) for name, table in splits.items()}


def require(tables: Collection[Table], names: Collection[str]) -> None:
    """Raise one ValueError for all the columns that tables lack, with what they have and what looks close."""
    problems = []
    for table in tables:
        found = list(table.columns)
        for name in (name for name in names if name not in found):
            close = difflib.get_close_matches(name, found, 1)
            hint = f" (is {close[0]!r} meant?)" if close else ""
            problems.append(
                f"{table.file}: expected a column {name!r}, got {', '.join(found)}{hint}"
            )
    refuse(list(dict.fromkeys(problems)))


def written(label: object) -> str | None:
    """A label as the text it is compared by; None when it is absent, blank, or not a finite number."""
    text = "" if label is None else str(label).strip()
    return None if text.lower().lstrip("+-") in ("", "nan", "inf", "infinity") else text


def is_number(label: object) -> bool:
    """Whether a label is written as a finite decimal number."""
    text = written(label)
    return (
        text is not None
        and NUMBER.fullmatch(text) is not None
        and math.isfinite(float(text))
    )


def _is_text(value: object, blank: bool) -> bool:
    if not isinstance(value, str) or not (blank or value.strip()):
        return False
    # Half of a surrogate pair, which JSON can write ("\ud83d"), is no character, and no tokenizer takes it.
    return SURROGATE.search(value) is None


def _listed(names: Collection[str], shown: int = 10) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > shown else ""
    return f"one of {', '.join(list(names)[:shown])}{more}"


def _examples(
    table: Table, columns: Columns, classes: Mapping[str, int] | None
) -> Examples:
    labels = [str(written(label)) for label in table.columns[columns.label]]
    if classes is None:
        label = np.array(labels, float).astype(np.float32)
    else:
        label = np.array([classes[text] for text in labels], np.int32)
    pair = None if columns.pair is None else table.columns[columns.pair]
    return Examples(table.columns[columns.text], pair, label)
