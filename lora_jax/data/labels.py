"""Labels as they are written: words, whole numbers or scores, and what is one class.

Of a user's own file nobody says what its labels are, so they are looked at.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import chain
from typing import Literal, NoReturn

from lora_jax.data.table import Table, raise_problems
from lora_jax.plural import counted

LabelKind = Literal["auto", "classes", "scores"]

# Decimal, in ASCII: float() would take "1_000", "١" and "infinity" too.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
# What is written where there is no finite number.
NO_LABEL = frozenset(["", "nan", "inf", "infinity"])
# A longer label is a text in the wrong column. In characters.
MAX_LABEL = 200

# More are almost surely whole-numbered scores, or texts in the wrong column.
MAX_CLASSES = 1000
# Of numbers such as 3.0: up to ten are a class or a rating, more are scores.
MAX_POINTED_CLASSES = 10
# Names of the spellings in a note, at most.
LISTED = 5


def label_text(label: object) -> str | None:
    """Return a label as it is written.

    None when it is absent, blank, too long, or neither a word nor a finite number.
    """
    # JSON and Parquet have lists and dates too.
    if not isinstance(label, (str, int, float, Decimal)):
        return None
    text = str(label).strip()
    word = text.lower().lstrip("+-")
    if word in NO_LABEL or len(text) > MAX_LABEL:
        return None
    return text


def label_key(text: str) -> str:
    """Return what tells a label's class from others.

    Words that differ in case alone are one class, as are `1`, `01` and `1.0`.
    """
    if not is_number(text):
        return text.casefold()
    # Digits alone are compared exactly, however many.
    if WHOLE_NUMBER.fullmatch(text):
        return str(int(text))
    value = float(text)
    return str(int(value)) if value.is_integer() else repr(value)


def is_number(label: object) -> bool:
    """Return whether a label is written as a finite decimal number."""
    text = label_text(label)
    if text is None or not NUMBER.fullmatch(text):
        return False
    return math.isfinite(float(text))  # 1e999 is not


def class_names(
    table: Table, column: str, kind: LabelKind = "auto"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes among the labels, and notes on how they were understood.

    The classes are sorted, each as it is written most often; none means that the labels
    are scores. Words and whole numbers are classes, and so are up to ten numbers such
    as 3.0 that are whole; other numbers are scores. `kind` decides otherwise.

    Raises:
        ValueError: labels are too long, words and numbers mix (it names the rows of
            either), numbers have a decimal comma, or there is 1 class, or too many.
    """
    expected = f"a word or a number of at most {MAX_LABEL} characters (this is longer)"
    raise_problems(table.misfits(column, _is_short, expected))
    if kind == "scores":
        return (), ()
    texts = []
    for label in table.columns[column]:
        if (text := label_text(label)) is not None:
            texts.append(text)
    # Without any, every row is a problem.
    if not texts:
        _raise_no_labels(table, column)
    numbers = sum(is_number(text) for text in texts)
    if kind == "auto":
        _check_one_kind(table, column, numbers, texts)
    spellings = _spellings(texts)
    if kind == "auto" and numbers and not _are_classes(texts, spellings):
        return (), _score_notes(table, spellings)
    _check_count(table, column, spellings, are_numbers=numbers > 0)
    names = _names(spellings)
    return names, _class_notes(table, spellings, names)


def _is_short(label: object) -> bool:
    # What is no label at all is told with the rows of all splits.
    if not isinstance(label, (str, int, float, Decimal)):
        return True
    return len(str(label).strip()) <= MAX_LABEL


def _raise_no_labels(table: Table, column: str) -> NoReturn:
    expected = f"a word or a number of at most {MAX_LABEL} characters"
    raise_problems(table.misfits(column, lambda label: False, expected))
    raise ValueError(
        f"{table.file}: expected 2 classes or more in the training split, got none"
    )


def _check_one_kind(
    table: Table, column: str, numbers: int, texts: Sequence[str]
) -> None:
    """Words or numbers, but not both: a typing error would make a class of its own."""
    if 0 < numbers < len(texts):
        if numbers >= len(texts) / 2:
            raise_problems(
                table.misfits(column, is_number, "a number like most others")
            )

        def is_word(label: object) -> bool:
            return not is_number(label)

        raise_problems(table.misfits(column, is_word, "a word like most others"))
    if all(DECIMAL_COMMA.fullmatch(text) for text in texts):
        raise ValueError(
            f"{table.file}: {column}: expected numbers with a decimal point, "
            f"got {texts[0]}; write {texts[0].replace(',', '.')}"
        )


def _spellings(texts: Sequence[str]) -> dict[str, list[str]]:
    """The distinct spellings of each class, the most frequent one first."""
    spellings: dict[str, list[str]] = {}
    # Equally frequent ones are in the order in which they appear.
    for text, _ in Counter(texts).most_common():
        spellings.setdefault(label_key(text), []).append(text)
    return spellings


def _are_classes(texts: Sequence[str], spellings: dict[str, list[str]]) -> bool:
    """Whether numbers are classes, and no scores."""
    if not all(WHOLE_NUMBER.fullmatch(key) for key in spellings):
        return False
    # Whoever writes 3.0 may mean a class or a score.
    is_pointed = any("." in text for text in texts)
    return not is_pointed or len(spellings) <= MAX_POINTED_CLASSES


def _check_count(
    table: Table, column: str, spellings: dict[str, list[str]], are_numbers: bool
) -> None:
    count = len(spellings)
    if count > MAX_CLASSES:
        hint = "is this the column of the labels?"
        if are_numbers:
            hint = "--label-kind scores makes them scores"
        raise ValueError(
            f"{table.file}: {column}: expected at most {MAX_CLASSES:,} classes, "
            f"got {count:,}; {hint}"
        )
    if count < 2:
        (spelled,) = spellings.values()
        raise ValueError(
            f"{table.file}: expected 2 classes or more in the training split, "
            f"got only {spelled[0]!r}"
        )


def _names(spellings: dict[str, list[str]]) -> tuple[str, ...]:
    """The names of the classes, sorted: numbers by value, words as they are compared."""
    are_whole = all(WHOLE_NUMBER.fullmatch(key) for key in spellings)
    # "9" before "10".
    keys = sorted(spellings, key=int) if are_whole else sorted(spellings)
    names = []
    for key in keys:
        name = spellings[key][0]
        # A class is called 3 where 3.0 is written.
        names.append(key if are_whole and "." in name else name)
    return tuple(names)


def _class_notes(
    table: Table, spellings: dict[str, list[str]], names: Sequence[str]
) -> tuple[str, ...]:
    notes = []
    if is_number(names[0]) and any("." in text for text in _all(spellings)):
        classes = counted(len(names), "class", "classes")
        notes.append(
            f"{table.file}: labels with a decimal point are whole numbers, and are "
            f"taken for {classes}; --label-kind scores makes them scores"
        )
    for name, key in zip(names, map(label_key, names), strict=True):
        others = [text for text in spellings[key] if text != name]
        # 1.0 is no other spelling of 1 that anybody would wonder about.
        if others and not is_number(name):
            listed = ", ".join(others[:LISTED])
            notes.append(f"{table.file}: {listed} and {name} are one class")
    return tuple(notes)


def _score_notes(table: Table, spellings: dict[str, list[str]]) -> tuple[str, ...]:
    return (
        f"{table.file}: labels are taken for scores, as {_fraction(spellings)}; "
        "--label-kind classes makes them classes",
    )


def _fraction(spellings: dict[str, list[str]]) -> str:
    """Why numbers are scores, in words."""
    for key, spelled in spellings.items():
        if not WHOLE_NUMBER.fullmatch(key):
            return f"{spelled[0]} is no whole number"
    return f"there are {len(spellings)} of them"


def _all(spellings: dict[str, list[str]]) -> list[str]:
    return list(chain.from_iterable(spellings.values()))
