"""Tasks that generate text: tables of sources and their targets become examples.

A classification can be turned into such a task too: the class is a word to write.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lora_jax.data.examples import Columns, make_examples, require_columns
from lora_jax.data.table import Table
from lora_jax.data.task import Examples, Task

# Those of the E2E challenge, as in LoRA's Table 3.
DATA_TO_TEXT_METRICS = ("bleu", "nist", "meteor", "rouge_l", "cider")


def generation_task(
    name: str, metrics: tuple[str, ...], tables: Mapping[str, Table], origin: str
) -> Task:
    """Return the task of a table for each split, with the columns source and target.

    `origin` says where the rows come from.

    Raises:
        ValueError: one error for all splits together: columns are missing, or else
            splits are empty or texts are no text.
    """
    require_columns(tables.values(), ("source", "target"))
    # One label for all rows, so that sources and targets are checked as any other pair
    # of texts is.
    labeled = {}
    for split, table in tables.items():
        labels = ["0"] * len(table.rows)
        columns = table.columns | {"label": labels}
        labeled[split] = table._replace(columns=columns)
    splits = make_examples(
        labeled,
        columns=Columns("source", "target"),
        classes={"0": 0},
    )
    return Task(
        name=name,
        labels=(),
        metrics=metrics,
        splits=splits,
        source=origin,
        generates=True,
        notes=notes_of(tables.values()),
    )


def notes_of(tables: Iterable[Table]) -> tuple[str, ...]:
    """Return the notes of several tables, each once."""
    notes: dict[str, None] = {}
    for table in tables:
        notes |= dict.fromkeys(table.notes)
    return tuple(notes)


def classification_as_text(task: Task) -> Task:
    """Return a classification as a task that generates the class's name.

    The name follows the text or texts, as GPT-3 was tuned (LoRA, section D.3).

    Raises:
        ValueError: the task has no classes.
    """
    if task.generates or not task.labels:
        raise ValueError(
            f"{task.name}: expected a task with classes, "
            "whose names are words to be written"
        )
    splits = {}
    # Classes first: the name of each becomes the target of its texts.
    for name, examples in task.splits.items():
        splits[name] = _labels_as_targets(examples, task.labels)
    # GLUE's test labels are not public: the validation rows are written and scored.
    splits.setdefault("test", splits["validation"])
    # What is written is compared with the name, but for case and spacing.
    return Task(
        name=f"{task.name}-text",
        labels=(),
        metrics=("exact_match",),
        splits=splits,
        source=task.source,
        generates=True,
        notes=task.notes,
    )


def rows_of_targets(
    table: Table, sources: Iterable[str], targets: Iterable[Iterable[str]]
) -> Table:
    """Return a table with a row for each target of each entry of `table`.

    Sources and targets lose their outer white space; rows with a blank side are left
    out, and a note counts the entries that have no other. A row keeps the number of its
    entry.
    """
    rows = []
    kept_sources = []
    kept_targets = []
    empty = 0
    entries = zip(table.rows, sources, targets, strict=True)
    for row, source, entry_targets in entries:
        source = source.strip()
        before = len(rows)
        for target in entry_targets:
            target = target.strip()
            # A few entries of the official files lack a side.
            if source and target:
                rows.append(row)
                kept_sources.append(source)
                kept_targets.append(target)
        empty += len(rows) == before
    columns = {"source": kept_sources, "target": kept_targets}
    notes = table.notes
    if empty:
        notes += (
            left_out(
                table.file, empty, len(table.rows), "which lack a source or a target"
            ),
        )
    return Table(table.file, table.unit, rows, columns, notes)


def left_out(file: str, count: int, total: int, reason: str) -> str:
    """Return a note on entries of a file that are left out."""
    return f"{file}: {count:,} of {total:,} entries are left out, {reason}"


def join_triples(triples: Iterable[Sequence[str]]) -> str:
    """Return triples in one line, as in the LoRA authors' NLG examples.

    That is "subject : relation : object | subject : relation : object | ...".
    """
    # The bar separates triples, the colon their parts, each with spaces around.
    parts = [" : ".join(triple) for triple in triples]
    return " | ".join(parts)


def _labels_as_targets(examples: Examples, labels: Sequence[str]) -> Examples:
    sources = examples.text
    if examples.pair is not None:
        # Two texts become one source, a line each.
        sources = []
        pairs = zip(examples.text, examples.pair, strict=True)
        for first, second in pairs:
            sources.append(f"{first}\n{second}")
    targets = []
    for index in examples.label:
        targets.append(labels[int(index)])
    no_labels = np.zeros_like(examples.label)
    return Examples(sources, targets, no_labels)
