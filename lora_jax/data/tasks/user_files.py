"""A user's own task: a table, or a folder of tables.

With columns text and label (and text_pair) it is a classification or a regression, with
columns source and target a task that generates.
"""

import re
from collections.abc import Collection
from pathlib import Path

from lora_jax.data.examples import (
    Columns,
    is_number,
    label_text,
    make_examples,
    require_columns,
)
from lora_jax.data.official_files import list_folder
from lora_jax.data.read_table import (
    FORMATS,
    Table,
    describe_file,
    describe_files,
    raise_problems,
    read,
)
from lora_jax.data.task import Task, hashed_split
from lora_jax.data.text_pairs import generation_task

SPLITS = ("train", "validation", "test")
# The columns of the two kinds of task.
LABELED = ("text", "label")
GENERATED = ("source", "target")

# More are almost surely whole-numbered scores, or texts in the wrong column.
MAX_CLASSES = 1000
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


def load(path: Path) -> Task:
    """Return the task of a .csv, .tsv, .jsonl or .parquet file, or of a folder.

    A folder has train.*, validation.* and perhaps test.*. A file is split by its column
    `split` when it has one, else by the sha256 of the text or source (80/10/10), so
    that equal ones share a split.

    Labels that are words or whole numbers are classes, sorted; other numbers are scores
    for regression. The training split decides what a label may be.

    Raises:
        ValueError: rows do not fit; it names them and their files.
        FileNotFoundError: a folder has no train.* or validation.*.
    """
    if path.is_dir():
        tables = _read_folder(path)
        names = sorted(table.file for table in tables.values())
        origin = describe_files(path / name for name in names)
    else:
        tables = _read_file(path)
        origin = describe_file(path)
    # The absolute path has a name even where "." is given.
    name = path.resolve().stem
    if _required_columns(tables.values()) == GENERATED:
        return generation_task(name, ("bleu", "rouge_l"), tables, origin)
    return _labeled_task(name, tables, origin)


def class_names(table: Table, column: str) -> tuple[str, ...]:
    """Return the classes among the labels, sorted; none when the labels are scores.

    Raises:
        ValueError: words and numbers mix (it names the rows of the rarer kind), or
            there is 1 class, or too many.
    """
    labels = []
    for label in table.columns[column]:
        if (text := label_text(label)) is not None:
            labels.append(text)
    # Words or numbers, but not both: a typing error would make a class of its own.
    numbers = sum(is_number(label) for label in labels)
    if 0 < numbers < len(labels):
        are_mostly_numbers = numbers >= len(labels) / 2
        raise_problems(_minority_problems(table, column, are_mostly_numbers))
    names = set(labels)
    are_whole = all(WHOLE_NUMBER.fullmatch(name) for name in names)
    # One decimal point makes all labels scores.
    if numbers and not are_whole:
        return ()
    if len(names) > MAX_CLASSES:
        hint = ""
        if are_whole:
            hint = "; write scores with a decimal point (3.0) for regression"
        raise ValueError(
            f"{table.file}: expected at most {MAX_CLASSES:,} classes, "
            f"got {len(names):,}{hint}"
        )
    if len(names) == 1:
        raise ValueError(
            f"{table.file}: expected 2 classes or more in the training split, "
            f"got only {names.pop()!r}"
        )
    if are_whole:
        # "9" before "10"; "+1" and "1" are two names of one number.
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def find_table_file(folder: Path, stems: Collection[str]) -> Path | None:
    """Return the table in `folder` that has one of these names, None if there is none.

    Raises:
        ValueError: there are two or more.
    """
    files = []
    for file in sorted(folder.iterdir()):
        if file.stem in stems and file.suffix.lower() in FORMATS:
            files.append(file)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"folder {folder.name}: expected one of {names}, got them all")
    return files[0] if files else None


def _labeled_task(name: str, tables: dict[str, Table], origin: str) -> Task:
    # One split with second texts makes them a column of every split.
    has_pair = any("text_pair" in table.columns for table in tables.values())
    columns = Columns("text", "text_pair" if has_pair else None)
    labels = class_names(tables["train"], columns.label)
    if labels:
        metrics = ("accuracy",)
        # Sorted, so that a label's index does not depend on the order of the rows.
        classes = {label: index for index, label in enumerate(labels)}
    else:
        metrics = ("pearson", "spearman")
        classes = None
    splits = make_examples(tables, columns, classes)
    return Task(name, labels, metrics, splits, origin)


def _minority_problems(table: Table, column: str, mostly_numbers: bool) -> list[str]:
    """A problem for each label of the rarer kind."""
    if mostly_numbers:
        return table.misfits(column, is_number, "a number like most others")

    def is_word(label: object) -> bool:
        return not is_number(label)

    return table.misfits(column, is_word, "a word like most others")


def _required_columns(tables: Collection[Table]) -> tuple[str, str]:
    """`LABELED` or `GENERATED`, whichever the tables have columns of.

    A table may have columns of both: then both columns of one kind decide.
    """
    columns: set[str] = set()
    for table in tables:
        columns.update(table.columns)
    complete = []
    begun = []
    for kind in (LABELED, GENERATED):
        if columns.issuperset(kind):
            complete.append(kind)
        if not columns.isdisjoint(kind):
            begun.append(kind)
    # Neither kind, or both: the task cannot be told.
    if len(complete) == 2 or not begun:
        files = ", ".join(dict.fromkeys(table.file for table in tables))
        raise ValueError(
            f"{files}: expected either the columns text and label, or source and "
            f"target for a task that generates, got {', '.join(sorted(columns))}"
        )
    # One kind has all its columns, or else the kind that has one is meant.
    required = complete[0] if complete else begun[0]
    require_columns(tables, required)
    return required


def _read_folder(path: Path) -> dict[str, Table]:
    # Training and validation have to be there, a test split may be.
    files = {}
    missing = []
    for split in SPLITS:
        if file := find_table_file(path, (split,)):
            files[split] = file
        elif split != "test":
            missing.append(f"{split}.*")
    if missing:
        raise FileNotFoundError(
            f"folder {path.name}: expected {' and '.join(missing)} "
            f"({', '.join(FORMATS)}), got {list_folder(path)}"
        )
    tables = {}
    for split, file in files.items():
        tables[split] = read(file)
    return tables


def _read_file(path: Path) -> dict[str, Table]:
    table = read(path)
    # What a row is about: its text, or its source.
    key_column = _required_columns([table])[0]
    has_splits = "split" in table.columns
    if has_splits:
        # The file says which row is in which split.
        expected = f"one of {', '.join(SPLITS)}"
        raise_problems(table.misfits("split", SPLITS.__contains__, expected))
        split_of_row = table.columns["split"]
    else:
        # Equal texts or sources share a split, so that none is learned by heart.
        keys = table.columns[key_column]
        split_of_row = [hashed_split(str(key)) for key in keys]
    tables = {}
    for split in SPLITS:
        is_split = [name == split for name in split_of_row]
        part = table.where(is_split)
        # A column `split` may leave the test split out. An empty train or validation
        # split stays, for an error that names it.
        if part.rows or split != "test" or not has_splits:
            tables[split] = part
    return tables
