"""DART 1.1.1 (Nan et al. 2021, arXiv:2007.02871): triples, mostly of tables, to text.

LoRA's Table 13. Sources are written as in the LoRA authors' NLG examples, relations in
lower case: "Mars Hill College : joined : 1973 | ...".
"""

from pathlib import Path
from typing import Any

from lora_jax.data.official_files import (
    Field,
    find_files,
    read_json_objects,
    task_folder,
)
from lora_jax.data.read_table import Table, describe_files
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, join_triples, rows_of_targets

# Those of the full set, with the parts from WebNLG, E2E and Wikipedia tables.
FILES = {
    "train": "dart-v1.1.1-full-train.json",
    "validation": "dart-v1.1.1-full-dev.json",
    "test": "dart-v1.1.1-full-test.json",
}
EXPECTED = f"{', '.join(FILES.values())} (github.com/Yale-LILY/dart)"
# Of LoRA's Table 13.
METRICS = ("bleu", "meteor", "ter")


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return train, validation and test from the official JSON files in `data_dir`.

    Raises:
        ValueError: there is no `data_dir`, or entries do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    # v1.1.1 is the folder of this version in the repository.
    folder = task_folder("dart", data_dir, EXPECTED, folders=("v1.1.1",))
    paths = find_files("dart", folder, FILES)
    tables = {}
    for split, path in paths.items():
        tables[split] = _read(path)
    origin = describe_files(paths.values())
    return generation_task("dart", METRICS, tables, origin)


def _read(path: Path) -> Table:
    fields = {
        "tripleset": Field("a list of [subject, relation, object]", _are_triples),
        "annotations": Field("a list of {'text': ...}", _are_texts),
    }
    table = read_json_objects(path, fields)
    sources = []
    for triples in table.columns["tripleset"]:
        sources.append(_source(triples))
    # An entry has a target for each annotator.
    targets = []
    for annotations in table.columns["annotations"]:
        targets.append([annotation["text"] for annotation in annotations])
    return rows_of_targets(table, sources, targets)


def _source(triples: list[list[str]]) -> str:
    lowered = []
    for subject, relation, entity in triples:
        # As the LoRA authors' script does.
        lowered.append((subject, relation.lower(), entity))
    return join_triples(lowered)


def _are_triples(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(_is_triple(triple) for triple in value)


def _is_triple(value: Any) -> bool:
    # Subject, relation and object.
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(isinstance(part, str) for part in value)


def _are_texts(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    # Maybe none: such an entry has no rows.
    return all(_is_annotation(entry) for entry in value)


def _is_annotation(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("text"), str)
