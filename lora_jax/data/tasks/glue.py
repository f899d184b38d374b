"""The nine tasks of GLUE (Wang et al. 2018, arXiv:1804.07461).

They come from the Hugging Face hub or from a local folder. The test labels of GLUE are
hidden, so its test split is left out. The validation split of MNLI is the matched one;
the other is `validation_mismatched`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lora_jax import download
from lora_jax.data.examples import (
    Columns,
    make_examples,
    named_columns,
    require_columns,
)
from lora_jax.data.folders import STEMS, find_table_file, list_folder
from lora_jax.data.official_files import task_folder
from lora_jax.data.read_bytes import describe_files
from lora_jax.data.read_table import FORMATS, read
from lora_jax.data.table import Table, raise_problems
from lora_jax.data.task import Examples, Task
from lora_jax.data.text_pairs import left_out, notes_of

HUB = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


# The metrics are those of GLUE's own leaderboard; the first chooses the best epoch.
class Spec(NamedTuple):
    """One task: folder in the official archive, text columns, labels, metrics."""

    folder: str
    text: str
    pair: str | None
    labels: tuple[str, ...]  # by index; none for regression
    metrics: tuple[str, ...] = ("accuracy",)


ENTAILED = ("entailment", "not_entailment")
SPECS = {
    "cola": Spec(
        "CoLA", "sentence", None, ("unacceptable", "acceptable"), ("matthews",)
    ),
    "sst2": Spec("SST-2", "sentence", None, ("negative", "positive")),
    "mrpc": Spec(
        folder="MRPC",
        text="sentence1",
        pair="sentence2",
        labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
    ),
    "qqp": Spec(
        folder="QQP",
        text="question1",
        pair="question2",
        labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
    ),
    "stsb": Spec("STS-B", "sentence1", "sentence2", (), ("pearson", "spearman")),
    "mnli": Spec(
        "MNLI", "premise", "hypothesis", ("entailment", "neutral", "contradiction")
    ),
    "qnli": Spec("QNLI", "question", "sentence", ENTAILED),
    "rte": Spec("RTE", "sentence1", "sentence2", ENTAILED),
    "wnli": Spec("WNLI", "sentence1", "sentence2", ENTAILED[::-1]),
}

# Columns of the official archive, where they differ from the hub's.
OFFICIAL_COLUMNS = {
    "mrpc": {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
    "qqp": {"is_duplicate": "label"},
    "stsb": {"score": "label"},
    "mnli": {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
}
# Official files without a header: CoLA's, and STS-B's as its authors publish it, which
# is separated by tabs though called .csv. Two more columns may follow.
HEADERLESS = {
    "cola": ("source", "label", "star", "sentence"),
    "stsb": ("genre", "file", "year", "index", "label", "sentence1", "sentence2"),
}
UNNAMED = ("license", "url")
# Where the authors' own archives have the files, below `data_dir`.
FOLDERS = {
    "cola": ("cola_public/raw", "CoLA/original/raw", "raw"),
    "stsb": ("stsbenchmark",),
}

# The names that a split's file may have. CoLA's authors have two parts of validation,
# which are one in GLUE.
PARTS = {"train": STEMS["train"], "validation": STEMS["validation"]}
MNLI_PARTS = {
    "train": ("train",),
    "validation": ("validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}
COLA_PARTS = {
    "train": ("in_domain_train",),
    "validation": ("in_domain_dev",),
    "validation_out_of_domain": ("out_of_domain_dev",),
}
STSB_PARTS = {"train": ("sts-train",), "validation": ("sts-dev",)}

# Of the scores of STS-B; the least is 0.
MAX_SIMILARITY = 5
# Lines of QQP that break off: some two dozen in the official file.
MAX_BROKEN = 100


def load(name: str, *, data_dir: str | Path | None = None) -> Task:
    """Return one of `SPECS`, from `data_dir` or from the hub at a pinned revision.

    `data_dir` is the task's folder, or one that holds it, or a zip archive. It has
    train.*, and validation.* or dev.* (MNLI: with _matched and _mismatched), as .tsv,
    .csv, .jsonl or .parquet, with the columns of the hub or of the official archive; or
    the files of the task's authors: in_domain_train.tsv, in_domain_dev.tsv and
    out_of_domain_dev.tsv of CoLA, sts-train.csv and sts-dev.csv of STS-B.

    Raises:
        ConnectionError: the hub cannot be reached.
        FileNotFoundError: files are missing.
        ValueError: rows do not fit; it names them.
    """
    spec = SPECS[name]
    if data_dir is None:
        tables, origin = _from_hub(name)
    else:
        tables, origin = _from_folder(name, data_dir)
    # Some sides of the real pairs are empty, so a blank text is data and no mistake.
    splits = make_examples(
        tables,
        Columns(spec.text, spec.pair),
        _label_indices(spec.labels) or None,
        blank=spec.pair is not None,
    )
    if name == "stsb":
        _check_similarities(tables)
    # CoLA's second part of validation is none of its own in GLUE.
    if (other := splits.pop("validation_out_of_domain", None)) is not None:
        splits["validation"] = _joined(splits["validation"], other)
    notes = notes_of(tables.values())
    return Task(name, spec.labels, spec.metrics, splits, origin, notes=notes)


def _check_similarities(tables: Mapping[str, Table]) -> None:
    """Check the scores of STS-B, which are numbers by now."""
    expected = f"a score from 0 to {MAX_SIMILARITY}"
    problems = []
    for table in tables.values():
        problems += table.misfits("label", _is_similarity, expected)
    raise_problems(problems)


def _is_similarity(score: str | float) -> bool:
    return 0 <= float(score) <= MAX_SIMILARITY


def _joined(first: Examples, second: Examples) -> Examples:
    label = np.concatenate([first.label, second.label])
    return Examples(first.text + second.text, None, label)


def _label_indices(labels: tuple[str, ...]) -> dict[str, int]:
    """The index of each label, written as its name or as its number."""
    indices = {label: index for index, label in enumerate(labels)}
    # The hub writes numbers, the official archive mostly names.
    for index in range(len(labels)):
        indices[str(index)] = index
    return indices


def _from_folder(name: str, data_dir: str | Path) -> tuple[dict[str, Table], str]:
    # The folder of the task, named as here or as in an official archive, or one that
    # holds it.
    folders = (SPECS[name].folder, *FOLDERS.get(name, ()))
    parts = _parts(name)[0]
    folder = task_folder(name, data_dir, _expected(parts), folders=folders)
    paths = _find_splits(name, folder)
    tables = {}
    for split, path in paths.items():
        tables[split] = _hub_columns(name, _read(name, path))
    return tables, describe_files(paths.values())


def _parts(name: str) -> list[dict[str, tuple[str, ...]]]:
    """The files of each split by their stems: of GLUE, or of the task's authors."""
    if name == "mnli":
        return [MNLI_PARTS]
    layouts = [PARTS]
    if name == "cola":
        layouts.append(COLA_PARTS)
    if name == "stsb":
        layouts.append(STSB_PARTS)
    return layouts


def _expected(parts: dict[str, tuple[str, ...]]) -> str:
    names = []
    for stems in parts.values():
        names.append(" or ".join(f"{stem}.*" for stem in stems[:2]))
    return "; ".join(names)


def _find_splits(name: str, folder: Path) -> dict[str, Path]:
    layouts = _parts(name)
    for layout in layouts:
        paths = {}
        for split, stems in layout.items():
            if path := find_table_file(folder, stems):
                paths[split] = path
        if len(paths) == len(layout):
            return paths
    # All that is missing in one error, and every name that would do.
    expected = ", or ".join(_expected(layout) for layout in layouts)
    raise FileNotFoundError(
        f"{name} in the folder {folder.name}: expected {expected} "
        f"({', '.join(FORMATS)}), got {list_folder(folder)}"
    )


def _read(name: str, path: Path) -> Table:
    headerless = HEADERLESS.get(name, ())
    # GLUE's own files of STS-B have a header.
    if name == "stsb" and not path.name.lower().startswith("sts-"):
        headerless = ()
    if headerless and name == "stsb":
        headerless = (*headerless, *UNNAMED)
    # CoLA from the hub is a .csv with commas and a header.
    if path.name.lower().endswith(".csv") and name == "cola":
        headerless = ()
    return read(path, headerless=headerless)


def _hub_columns(name: str, table: Table) -> Table:
    """The table with the columns of the hub, and without lines of QQP that break off.

    Raises:
        ValueError: columns are missing, or lines break off; it names them.
    """
    spec = SPECS[name]
    names = [column for column in (spec.text, spec.pair, "label") if column]
    renames = {}
    for column, renamed in OFFICIAL_COLUMNS.get(name, {}).items():
        # MNLI's `sentence1` is renamed only where there is no `premise`.
        if renamed not in table.columns:
            renames[column] = renamed
    table = named_columns(table, (*names, *renames))
    renames = {column: renames[column] for column in renames if column in table.columns}
    table = table.renamed(renames)
    require_columns([table], names)
    if name != "qqp":
        return table
    # A few lines of the official QQP break off; the hub leaves them out too.
    is_complete = [True] * len(table.rows)
    for column in names:
        for row, value in enumerate(table.columns[column]):
            if value is None:
                is_complete[row] = False
    broken = is_complete.count(False)
    if not broken or broken > MAX_BROKEN:
        return table
    note = left_out(table.file, broken, len(table.rows), "which break off")
    return table.where(is_complete)._replace(notes=(*table.notes, note))


def _from_hub(name: str) -> tuple[dict[str, Table], str]:
    download.use_cache_if_hub_is_away()
    # Imported here because only data from the hub needs it, and it takes 0.5 s.
    import datasets

    try:
        splits = datasets.load_dataset(HUB, name, revision=REVISION)
    # The client lets its HTTP library's own errors through, without a common base.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        validation = _parts(name)[0]["validation"][1]
        raise ConnectionError(
            f"{name} could not be loaded from the hub ({HUB}): {reason}. Without "
            f"network, pass data_dir, a folder with {name}/train.tsv and "
            f"{name}/{validation}.tsv (or .csv, .jsonl, .parquet)"
        ) from None
    tables = {}
    for split in _parts(name)[0]:
        # The hub names both of MNLI's validation splits; ours of that name is matched.
        is_matched = name == "mnli" and split == "validation"
        rows = splits["validation_matched" if is_matched else split]
        tables[split] = Table(
            file=f"{HUB} {name} {split}",
            unit="row",
            rows=range(1, len(rows) + 1),
            columns=rows[:],
        )
    return tables, f"{HUB}@{REVISION} {name}"
