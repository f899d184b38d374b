"""A user's own task: a table, or a folder of tables, with columns text, label (and text_pair), or source and target."""

import re
from collections.abc import Collection
from pathlib import Path

from lora_jax.data import text_pairs
from lora_jax.data.examples import Columns, examples, is_number, require, written
from lora_jax.data.read_table import FORMATS, Table, provenance, read, refuse
from lora_jax.data.task import Task, hashed_split, refuse_split_seed

SPLITS = ("train", "validation", "test")
CLASSIFIES, GENERATES = ("text", "label"), ("source", "target")
MAX_CLASSES = (
    1000  # more are almost surely whole-numbered scores, or texts in the wrong column
)


def load(path: Path, *, split_seed: int = 0) -> Task:
    """A task from a .csv, .tsv, .jsonl or .parquet file, or a folder with train.*, validation.* and perhaps test.*.

    With columns source and target it is a task that generates. A file is split by its column `split` when it has one,
    else by the sha256 of the text or source (80/10/10), so that equal ones share a split. Labels that are words or whole
    numbers are classes, sorted; other numbers are regression. What a label may be is learnt from the training split.
    Raises ValueError naming files and rows that do not fit.
    """
    tables = _folder(path, split_seed) if path.is_dir() else _file(path, split_seed)
    sources = {table.file for table in tables.values()}
    origin = ", ".join(
        provenance(path / name if path.is_dir() else path) for name in sorted(sources)
    )
    name = path.resolve().stem
    if _kind(tables.values()) == GENERATES:
        return text_pairs.task(name, ("bleu", "rouge_l"), tables, origin)
    pairs = any("text_pair" in table.columns for table in tables.values())
    columns = Columns("text", "text_pair" if pairs else None)
    labels = classes(tables["train"], columns.label)
    splits = examples(
        tables,
        columns,
        {label: i for i, label in enumerate(labels)} if labels else None,
    )
    metrics = ("accuracy",) if labels else ("pearson", "spearman")
    return Task(name, labels, metrics, splits, origin)


def classes(table: Table, column: str) -> tuple[str, ...]:
    """The class names among the labels, sorted; none when they are scores.

    Raises ValueError when words and numbers mix, naming the rows of the rarer kind, or on 1 or too many classes.
    """
    labels = [
        text for label in table.columns[column] if (text := written(label)) is not None
    ]
    names, numbers = set(labels), sum(map(is_number, labels))
    if 0 < numbers < len(labels):
        refuse(
            table.misfits(column, is_number, "a number like most others")
            if numbers >= len(labels) / 2
            else table.misfits(
                column, lambda label: not is_number(label), "a word like most others"
            )
        )
    whole = all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names)
    if numbers and not whole:
        return ()
    if len(names) > MAX_CLASSES:
        hint = (
            "; write scores with a decimal point (3.0) for regression" if whole else ""
        )
        raise ValueError(
            f"{table.file}: expected at most {MAX_CLASSES:,} classes, got {len(names):,}{hint}"
        )
    if len(names) == 1:
        raise ValueError(
            f"{table.file}: expected 2 classes or more in the training split, got only {names.pop()!r}"
        )
    return tuple(sorted(names, key=lambda name: (int(name), name) if whole else name))


def _kind(tables: Collection[Table]) -> tuple[str, str]:
    """The columns all the tables have, of `CLASSIFIES` and `GENERATES`."""
    found = {name for table in tables for name in table.columns}
    whole = [names for names in (CLASSIFIES, GENERATES) if found >= {*names}]
    begun = [names for names in (CLASSIFIES, GENERATES) if found & {*names}]
    if len(whole) == 2 or not begun:
        files = ", ".join(dict.fromkeys(table.file for table in tables))
        raise ValueError(
            f"{files}: expected either the columns text and label, or source and target for a task that generates, "
            f"got {', '.join(sorted(found))}"
        )
    kind = (whole or begun)[0]
    require(tables, kind)
    return kind


def _folder(path: Path, seed: int) -> dict[str, Table]:
    refuse_split_seed(f"the folder {path.name}", seed)
    found = {split: table_file(path, (split,)) for split in SPLITS}
    missing = [f"{split}.*" for split in SPLITS[:2] if found[split] is None]
    if missing:
        there = (
            ", ".join(sorted(file.name for file in path.iterdir())[:10]) or "nothing"
        )
        raise FileNotFoundError(
            f"folder {path.name}: expected {' and '.join(missing)} ({', '.join(FORMATS)}), got {there}"
        )
    return {split: read(file) for split, file in found.items() if file is not None}


def table_file(folder: Path, stems: Collection[str]) -> Path | None:
    """The one table in `folder` with one of these names, None if there is none. Raises ValueError on two or more."""
    found = sorted(
        file
        for file in folder.iterdir()
        if file.stem in stems and file.suffix.lower() in FORMATS
    )
    if len(found) > 1:
        raise ValueError(
            f"folder {folder.name}: expected one of {', '.join(f.name for f in found)}, got them all"
        )
    return found[0] if found else None


def _file(path: Path, seed: int) -> dict[str, Table]:
    table = read(path)
    key, _ = _kind([table])
    given = "split" in table.columns
    if given:
        refuse_split_seed(path.name, seed)
        refuse(
            table.misfits(
                "split", lambda name: name in SPLITS, f"one of {', '.join(SPLITS)}"
            )
        )
        split = table.columns["split"]
    else:
        split = [hashed_split(str(text), seed) for text in table.columns[key]]
    parts = {name: table.where([name == own for own in split]) for name in SPLITS}
    return {
        name: part
        for name, part in parts.items()
        if part.rows or name != "test" or not given
    }
