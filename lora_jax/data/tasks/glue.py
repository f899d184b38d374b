"""The nine tasks of GLUE (Wang et al. 2018, arXiv:1804.07461), from the Hugging Face hub or from a local folder.

The test labels of GLUE are hidden, so its test split is left out. The validation split of MNLI is the matched one; the
other is `validation_mismatched`.
"""

from pathlib import Path
from typing import NamedTuple

from lora_jax.data.examples import Columns, examples, require
from lora_jax.data.read_table import FORMATS, Table, provenance, read
from lora_jax.data.task import Task, refuse_split_seed
from lora_jax.data.tasks.user_files import table_file

HUB, REVISION = "nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


class Spec(NamedTuple):
    """One task: its folder in the official archive, its text columns, its labels by index, its metrics."""

    folder: str
    text: str
    pair: str | None
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)


ENTAILED = ("entailment", "not_entailment")
SPECS = {
    "cola": Spec(
        "CoLA", "sentence", None, ("unacceptable", "acceptable"), ("matthews",)
    ),
    "sst2": Spec("SST-2", "sentence", None, ("negative", "positive")),
    "mrpc": Spec(
        "MRPC",
        "sentence1",
        "sentence2",
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
    ),
    "qqp": Spec(
        "QQP",
        "question1",
        "question2",
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
    ),
    "stsb": Spec("STS-B", "sentence1", "sentence2", (), ("pearson", "spearman")),
    "mnli": Spec(
        "MNLI", "premise", "hypothesis", ("entailment", "neutral", "contradiction")
    ),
    "qnli": Spec("QNLI", "question", "sentence", ENTAILED),
    "rte": Spec("RTE", "sentence1", "sentence2", ENTAILED),
    "wnli": Spec("WNLI", "sentence1", "sentence2", ENTAILED[::-1]),
}

# The official archive's headers, where they differ from the hub's; CoLA's files have none.
OFFICIAL = {
    "mrpc": {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
    "qqp": {"is_duplicate": "label"},
    "stsb": {"score": "label"},
    "mnli": {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
}
COLA_COLUMNS = ("source", "label", "star", "sentence")


def load(name: str, *, glue_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """One of `SPECS`, from the hub at a pinned revision, or from `glue_dir`: the task's folder or one that holds it.

    A folder has train.*, validation.* or dev.* (MNLI: with _matched and _mismatched) as .tsv, .csv, .jsonl or .parquet,
    with the columns of the hub or of the official archive. Raises ConnectionError when the hub cannot be reached,
    FileNotFoundError when files are missing, and ValueError naming the rows that do not fit.
    """
    refuse_split_seed(name, split_seed)
    spec = SPECS[name]
    tables, source = (
        _hub(name) if glue_dir is None else _local(name, Path(glue_dir).expanduser())
    )
    classes = {label: i for i, label in enumerate(spec.labels)} | {
        str(i): i for i in range(len(spec.labels))
    }
    # Some sides of the real pairs are empty, so a blank text is data here and no mistake.
    splits = examples(
        tables,
        Columns(spec.text, spec.pair),
        classes or None,
        blank=spec.pair is not None,
    )
    return Task(name, spec.labels, spec.metrics, splits, source)


def _files(name: str) -> dict[str, tuple[str, ...]]:
    if name == "mnli":
        kinds = {"validation": "matched", "validation_mismatched": "mismatched"}
        return {"train": ("train",)} | {
            k: (f"validation_{v}", f"dev_{v}") for k, v in kinds.items()
        }
    return {"train": ("train",), "validation": ("validation", "dev")}


def _local(name: str, root: Path) -> tuple[dict[str, Table], str]:
    folder = next(
        (root / sub for sub in (name, SPECS[name].folder) if (root / sub).is_dir()),
        root,
    )
    if not folder.is_dir():
        raise FileNotFoundError(f"the GLUE folder {str(root)!r} does not exist")
    paths = {split: table_file(folder, stems) for split, stems in _files(name).items()}
    missing = [
        " or ".join(f"{stem}.*" for stem in _files(name)[split])
        for split, path in paths.items()
        if not path
    ]
    if missing:
        there = (
            ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
        )
        expected = f"{'; '.join(missing)} ({', '.join(FORMATS)})"
        raise FileNotFoundError(
            f"{name} in the folder {folder.name}: expected {expected}, got {there}"
        )
    found = {split: path for split, path in paths.items() if path}
    tables = {
        split: _official(
            name, read(path, headerless=COLA_COLUMNS if name == "cola" else ())
        )
        for split, path in found.items()
    }
    return tables, ", ".join(map(provenance, found.values()))


def _official(name: str, table: Table) -> Table:
    renames = {
        old: new
        for old, new in OFFICIAL.get(name, {}).items()
        if new not in table.columns
    }
    table = table._replace(
        columns={
            renames.get(column, column): values
            for column, values in table.columns.items()
        }
    )
    needed = [
        column for column in (SPECS[name].text, SPECS[name].pair, "label") if column
    ]
    require([table], needed)
    # The official QQP has a few lines that break off; the hub's version leaves them out too.
    rows = zip(*(table.columns[column] for column in needed), strict=True)
    return (
        table.where([None not in row for row in rows])
        if table.file.endswith(".tsv")
        else table
    )


def _hub(name: str) -> tuple[dict[str, Table], str]:
    import datasets  # here, not above: only GLUE from the hub needs it, and it takes 0.5 s

    try:
        splits = datasets.load_dataset(HUB, name, revision=REVISION)
    except Exception as error:  # the client lets its HTTP library's own errors through, which have no common base
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConnectionError(
            f"{name} could not be loaded from the hub ({HUB}): {reason}. Without network, pass glue_dir, a folder "
            f"with {name}/train.tsv and {name}/{_files(name)['validation'][1]}.tsv (or .csv, .jsonl, .parquet)"
        ) from None
    hub_name = {"validation": "validation_matched"} if name == "mnli" else {}
    tables = {
        split: Table(f"{HUB} {name} {split}", "row", range(1, len(rows) + 1), rows[:])
        for split in _files(name)
        for rows in [splits[hub_name.get(split, split)]]
    }
    return tables, f"{HUB}@{REVISION} {name}"
