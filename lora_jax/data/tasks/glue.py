"""The nine tasks of GLUE (Wang et al. 2018, arXiv:1804.07461).

They come from the Hugging Face hub or from a local folder. The test labels of GLUE are
hidden, so its test split is left out. The validation split of MNLI is the matched one;
the other is `validation_mismatched`.
"""

from pathlib import Path
from typing import NamedTuple

from lora_jax import download
from lora_jax.data.examples import Columns, make_examples, require_columns
from lora_jax.data.official_files import list_folder
from lora_jax.data.read_table import FORMATS, Table, describe_files, read
from lora_jax.data.task import Task
from lora_jax.data.tasks.user_files import find_table_file

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
# The official files of CoLA have no header.
COLA_COLUMNS = ("source", "label", "star", "sentence")

# The names a split's file may have, and those of MNLI's two validation splits.
STEMS = {"train": ("train",), "validation": ("validation", "dev")}
MNLI_STEMS = {
    "train": ("train",),
    "validation": ("validation_matched", "dev_matched"),
    "validation_mismatched": ("validation_mismatched", "dev_mismatched"),
}


def load(name: str, *, data_dir: str | Path | None = None) -> Task:
    """Return one of `SPECS`, from `data_dir` or from the hub at a pinned revision.

    `data_dir` is the task's folder, or one that holds it. It has train.*, and
    validation.* or dev.* (MNLI: with _matched and _mismatched), as .tsv, .csv, .jsonl
    or .parquet, with the columns of the hub or of the official archive.

    Raises:
        ConnectionError: the hub cannot be reached.
        FileNotFoundError: files are missing.
        ValueError: rows do not fit; it names them.
    """
    spec = SPECS[name]
    if data_dir is None:
        tables, origin = _from_hub(name)
    else:
        tables, origin = _from_folder(name, Path(data_dir).expanduser())
    # Some sides of the real pairs are empty, so a blank text is data and no mistake.
    splits = make_examples(
        tables,
        Columns(spec.text, spec.pair),
        _label_indices(spec.labels) or None,
        blank=spec.pair is not None,
    )
    return Task(name, spec.labels, spec.metrics, splits, origin)


def _label_indices(labels: tuple[str, ...]) -> dict[str, int]:
    """The index of each label, written as its name or as its number."""
    indices = {label: index for index, label in enumerate(labels)}
    # The hub writes numbers, the official archive mostly names.
    for index in range(len(labels)):
        indices[str(index)] = index
    return indices


def _stems(name: str) -> dict[str, tuple[str, ...]]:
    if name == "mnli":
        return MNLI_STEMS
    return STEMS


def _from_folder(name: str, root: Path) -> tuple[dict[str, Table], str]:
    # The folder of the task, named as here or as in the official archive, or one that
    # holds it.
    folder = root
    for child in (name, SPECS[name].folder):
        if (root / child).is_dir():
            folder = root / child
            break
    if not folder.is_dir():
        raise FileNotFoundError(f"the GLUE folder {str(root)!r} does not exist")
    paths = _find_splits(name, folder)
    headerless = COLA_COLUMNS if name == "cola" else ()
    tables = {}
    for split, path in paths.items():
        tables[split] = _hub_columns(name, read(path, headerless=headerless))
    return tables, describe_files(paths.values())


def _find_splits(name: str, folder: Path) -> dict[str, Path]:
    # All that is missing in one error.
    paths = {}
    missing = []
    for split, stems in _stems(name).items():
        path = find_table_file(folder, stems)
        if path:
            paths[split] = path
        else:
            missing.append(" or ".join(f"{stem}.*" for stem in stems))
    if missing:
        raise FileNotFoundError(
            f"{name} in the folder {folder.name}: expected {'; '.join(missing)} "
            f"({', '.join(FORMATS)}), got {list_folder(folder)}"
        )
    return paths


def _hub_columns(name: str, table: Table) -> Table:
    """The table with the columns of the hub, without rows that break off."""
    spec = SPECS[name]
    renames = OFFICIAL_COLUMNS.get(name, {})
    columns = {}
    for column, values in table.columns.items():
        renamed = renames.get(column, column)
        # MNLI's `sentence1` is renamed only where there is no `premise`.
        columns[column if renamed in table.columns else renamed] = values
    table = table._replace(columns=columns)
    names = [column for column in (spec.text, spec.pair, "label") if column]
    require_columns([table], names)
    if not table.file.endswith(".tsv"):
        return table
    # A few lines of the official QQP break off; the hub leaves them out too.
    is_complete = [True] * len(table.rows)
    for column in names:
        for row, value in enumerate(table.columns[column]):
            if value is None:
                is_complete[row] = False
    return table.where(is_complete)


def _from_hub(name: str) -> tuple[dict[str, Table], str]:
    download.use_cache_if_hub_is_away()
    # Imported here because only data from the hub needs it, and it takes 0.5 s.
    import datasets

    try:
        splits = datasets.load_dataset(HUB, name, revision=REVISION)
    # The client lets its HTTP library's own errors through, without a common base.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        validation = _stems(name)["validation"][1]
        raise ConnectionError(
            f"{name} could not be loaded from the hub ({HUB}): {reason}. Without "
            f"network, pass data_dir, a folder with {name}/train.tsv and "
            f"{name}/{validation}.tsv (or .csv, .jsonl, .parquet)"
        ) from None
    tables = {}
    for split in _stems(name):
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
