"""A user's own task: a table, or a folder of tables.

With columns text and label (and text_pair) it is a classification or a regression, with
columns source and target a task that generates.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from lora_jax.data.examples import (
    Columns,
    make_examples,
    named_columns,
    require_columns,
    text_problems,
)
from lora_jax.data.folders import STEMS, find_table_file, list_folder
from lora_jax.data.labels import LabelKind, class_names
from lora_jax.data.read_bytes import describe_file, describe_files
from lora_jax.data.read_table import FORMATS, read
from lora_jax.data.table import Table, raise_problems
from lora_jax.data.task import Task, hashed_split
from lora_jax.data.text_pairs import generation_task, notes_of

# The columns of the two kinds of task.
LABELED = ("text", "label")
GENERATED = ("source", "target")
# All that have a meaning, whatever the case of their names.
NAMES = (*LABELED, "text_pair", *GENERATED, "split")

# Of so many different texts, a hash puts some into all of the splits in 99 of 100
# files: a tenth of them is validation, and a tenth is test.
ENOUGH = 50


def load(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    label_kind: LabelKind = "auto",
) -> Task:
    """Return the task of a .csv, .tsv, .jsonl or .parquet file, or of a folder.

    A folder has train.*, validation.* (or dev.*) and perhaps test.*. A file is split by
    its column `split` when it has one, else by the sha256 of the text or source
    (80/10/10), so that equal ones share a split.

    `columns` are the file's own names by ours: {"text": "review"}. The names of other
    columns may differ from ours in case. Labels are as `labels.class_names` reads them.
    The training split decides what a label may be.

    Raises:
        ValueError: rows do not fit; it names them and their files.
        FileNotFoundError: a folder has no train.* or validation.*.
        OSError: a file cannot be read.
    """
    columns = dict(columns or {})
    if path.is_dir():
        tables = _read_folder(path, columns)
        names = sorted(table.file for table in tables.values())
        origin = describe_files(path / name for name in names)
    else:
        tables = _read_file(path, columns)
        origin = describe_file(path)
    # The absolute path has a name even where "." is given.
    name = path.resolve().stem
    if _required_columns(tables.values(), columns) == GENERATED:
        return generation_task(name, ("bleu", "rouge_l"), tables, origin)
    return _labeled_task(name, tables, origin, label_kind)


def _labeled_task(
    name: str, tables: dict[str, Table], origin: str, label_kind: LabelKind
) -> Task:
    # One split with second texts makes them a column of every split.
    has_pair = any("text_pair" in table.columns for table in tables.values())
    columns = Columns("text", "text_pair" if has_pair else None)
    labels, label_notes = class_names(tables["train"], columns.label, label_kind)
    if labels:
        metrics = ("accuracy",)
        # Sorted, so that a label's index does not depend on the order of the rows.
        classes = {label: index for index, label in enumerate(labels)}
    else:
        metrics = ("pearson", "spearman")
        classes = None
    splits = make_examples(tables, columns, classes)
    notes = notes_of(tables.values()) + label_notes
    return Task(name, labels, metrics, splits, origin, notes=notes)


def _required_columns(
    tables: Collection[Table], chosen: Mapping[str, str]
) -> tuple[str, str]:
    """`LABELED` or `GENERATED`, whichever the tables have columns of.

    A table may have columns of both: then both columns of one kind decide, or those
    that the user has chosen.
    """
    columns: set[str] = set()
    for table in tables:
        columns.update(table.columns)
    complete = []
    begun = []
    for kind in (LABELED, GENERATED):
        if not chosen.keys().isdisjoint(kind):
            require_columns(tables, kind, has_flags=True)
            return kind
        if columns.issuperset(kind):
            complete.append(kind)
        if not columns.isdisjoint(kind):
            begun.append(kind)
    # Neither kind, or both: the task cannot be told.
    if len(complete) == 2 or not begun:
        files = ", ".join(dict.fromkeys(table.file for table in tables))
        raise ValueError(
            f"{files}: expected either the columns text and label, or source and "
            f"target for a task that generates, got {', '.join(sorted(columns))}; "
            "--text-column and --label-column, or --source-column and "
            "--target-column, name them"
        )
    # One kind has all its columns, or else the kind that has one is meant.
    required = complete[0] if complete else begun[0]
    require_columns(tables, required, has_flags=True)
    return required


def _read(path: Path, columns: Mapping[str, str]) -> Table:
    """The table with our names of columns."""
    table = read(path)
    table = named_columns(table, columns.values())
    require_columns([table], columns.values())
    chosen = {column: name for name, column in columns.items()}
    return named_columns(table.renamed(chosen), NAMES)


def _read_folder(path: Path, columns: Mapping[str, str]) -> dict[str, Table]:
    # Training and validation have to be there, a test split may be.
    files = {}
    missing = []
    for split, stems in STEMS.items():
        if file := find_table_file(path, stems):
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
        tables[split] = _read(file, columns)
    return tables


def _read_file(path: Path, columns: Mapping[str, str]) -> dict[str, Table]:
    table = _read(path, columns)
    # What a row is about: its text, or its source.
    key_column = _required_columns([table], columns)[0]
    has_splits = "split" in table.columns
    if has_splits:
        split_of_row = _named_splits(table)
    else:
        # Equal texts or sources share a split, so that none is learned by heart.
        keys = table.columns[key_column]
        split_by_key = {key: hashed_split(key) for key in set(map(str, keys))}
        split_of_row = [split_by_key[str(key)] for key in keys]
        # A text that is none comes first: such texts are all alike.
        raise_problems(text_problems(table, [key_column]))
        _check_enough(table, len(split_by_key), split_of_row)
    tables = {}
    for split in STEMS:
        is_split = [name == split for name in split_of_row]
        part = table.where(is_split)
        # A column `split` may leave the test split out. An empty train or validation
        # split stays, for an error that names it.
        if part.rows or split != "test" or not has_splits:
            tables[split] = part
    return tables


def _named_splits(table: Table) -> list[str]:
    """The split of each row, as the file says."""
    split_by_name = {}
    for split, names in STEMS.items():
        split_by_name |= dict.fromkeys(names, split)

    def is_split(value: object) -> bool:
        return str(value).strip().casefold() in split_by_name

    expected = f"one of {', '.join(STEMS)}"
    raise_problems(table.misfits("split", is_split, expected))
    splits = []
    for value in table.columns["split"]:
        splits.append(split_by_name[str(value).strip().casefold()])
    return splits


def _check_enough(table: Table, texts: int, split_of_row: list[str]) -> None:
    """Raise a ValueError if the hash leaves a split without rows."""
    empty = [split for split in STEMS if split not in split_of_row]
    if not empty:
        return
    raise ValueError(
        f"{table.file}: no row is in the {' and the '.join(empty)} split, which a hash "
        f"of the text draws: expected about {ENOUGH} different texts or more, got "
        f"{texts}; or a column 'split' with train, validation or test in every row"
    )
