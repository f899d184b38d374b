"""Tasks that generate text: tables of a source and its target become examples; official files are found in a folder."""

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from lora_jax.data.examples import Columns, examples, require
from lora_jax.data.read_table import Table, refuse
from lora_jax.data.task import Examples, Task

DATA_TO_TEXT = ("bleu", "nist", "meteor", "rouge_l", "cider")


def task(
    name: str, metrics: tuple[str, ...], tables: Mapping[str, Table], origin: str
) -> Task:
    """The task of a table for each split, with the columns source and target, whose rows came from `origin`.

    Raises one ValueError for all splits together: missing columns, or else empty splits and texts that are no text.
    """
    require(tables.values(), ("source", "target"))
    # One label for all, so that sources and targets are checked as any other pair of texts is.
    labelled = {
        k: table._replace(columns=table.columns | {"label": ["0"] * len(table.rows)})
        for k, table in tables.items()
    }
    return Task(
        name,
        (),
        metrics,
        examples(labelled, Columns("source", "target"), {"0": 0}),
        origin,
        generates=True,
    )


def worded(task: Task) -> Task:
    """A classification as text: the class's name is written after the text or texts, as GPT-3 was tuned (LoRA, section D.3).

    Raises ValueError for a task without classes.
    """
    if task.generates or not task.labels:
        raise ValueError(
            f"{task.name}: expected a task with classes, whose names are words to be written"
        )

    def text(part: Examples) -> Examples:
        sources = (
            part.text
            if part.pair is None
            else [f"{a}\n{b}" for a, b in zip(part.text, part.pair, strict=True)]
        )
        return Examples(
            sources,
            [task.labels[int(label)] for label in part.label],
            np.zeros_like(part.label),
        )

    splits = {name: text(part) for name, part in task.splits.items()}
    if (
        "test" not in splits
    ):  # GLUE's test labels are not public: validation is what is written and scored
        splits["test"] = splits["validation"]
    return Task(
        f"{task.name}-text", (), ("exact_match",), splits, task.source, generates=True
    )


def home(
    name: str,
    data_dir: str | Path | None,
    expected: str,
    *,
    folders: Sequence[str] = (),
) -> Path:
    """Where the official files of a task lie: `data_dir`, a folder or a zip archive, or the first of `folders` in it.

    Raises ValueError when there is no `data_dir` or it is neither, FileNotFoundError when it does not exist.
    """
    if data_dir is None:
        raise ValueError(
            f"{name} is read from its official files: pass data_dir, a folder with {expected}"
        )
    root = Path(data_dir).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"the folder of {name} {str(root)!r} does not exist; expected one with {expected}"
        )
    if not root.is_dir():
        if not zipfile.is_zipfile(root):
            raise ValueError(
                f"{name}: expected a folder or a zip archive with {expected}, got the file {root.name}"
            )
        root = cast(Path, zipfile.Path(root))  # which has of Path all that is used here
    return next(
        (root / folder for folder in (name, *folders) if (root / folder).is_dir()), root
    )


def find(name: str, home: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """The file of each split. Raises FileNotFoundError naming all that are missing, and what is there."""
    paths = {split: home / file for split, file in files.items()}
    if missing := [file for split, file in files.items() if not paths[split].exists()]:
        there = (
            ", ".join(sorted(file.name for file in home.iterdir())[:10]) or "nothing"
        )
        raise FileNotFoundError(
            f"{name} in {home.name}: expected {', '.join(missing)}, got {there}"
        )
    return paths


def entries(
    path: Path, expected: Mapping[str, tuple[str, Callable[[Any], bool]]]
) -> Table:
    """A file that is one JSON list of objects, as a table. `expected` says of each column what it holds, and a test.

    Raises ValueError naming the file and its entries, which count from 1.
    """
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path.name}: expected JSON, got what is none: {error}"
        ) from None
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) for row in rows)
    ):
        raise ValueError(
            f"{path.name}: expected a JSON list of objects, with {', '.join(expected)}"
        )
    names = dict.fromkeys(name for row in rows for name in row)
    table = Table(
        path.name,
        "entry",
        range(1, len(rows) + 1),
        {name: [row.get(name) for row in rows] for name in names},
    )
    require([table], tuple(expected))
    refuse(
        [
            line
            for name, (what, fits) in expected.items()
            for line in table.misfits(name, fits, what)
        ]
    )
    return table


def pairs(
    table: Table, sources: Iterable[str], targets: Iterable[Iterable[str]]
) -> Table:
    """A row for each target of each entry of `table`, without outer white space; those with a blank side are left out."""
    rows = [
        (row, source.strip(), target.strip())
        for row, source, given in zip(table.rows, sources, targets, strict=True)
        for target in given
        if source.strip() and target.strip()
    ]
    numbers, source, target = zip(*rows, strict=True) if rows else ((), (), ())
    return Table(
        table.file,
        table.unit,
        numbers,
        {"source": list(source), "target": list(target)},
    )


def triples(parts: Iterable[Sequence[str]]) -> str:
    """Triples in a line, as in the LoRA authors' NLG examples: "subject : relation : object | subject : ..."."""
    return " | ".join(" : ".join(triple) for triple in parts)
