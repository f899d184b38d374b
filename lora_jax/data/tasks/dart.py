"""DART 1.1.1 (Nan et al. 2021, arXiv:2007.02871): triples, mostly of tables, to text.

LoRA's Table 13. Sources are written as in the LoRA authors' NLG examples, relations in
lower case: "Mars Hill College : joined : 1973 | ...".
"""

from pathlib import Path
from typing import Any

from lora_jax.data.folders import child, list_folder
from lora_jax.data.official_files import Field, read_json_objects, task_folder
from lora_jax.data.read_bytes import describe_files
from lora_jax.data.table import Table, raise_problems
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, join_triples, rows_of_targets
from lora_jax.data.triples_xml import MAX_TRIPLES, read_entries

# Those of the full set, with the parts from WebNLG, E2E and Wikipedia tables; the same
# entries are in files of either suffix.
STEMS = {
    "train": "dart-v1.1.1-full-train",
    "validation": "dart-v1.1.1-full-dev",
    "test": "dart-v1.1.1-full-test",
}
SUFFIXES = (".json", ".xml")
EXPECTED = (
    f"{', '.join(f'{stem}.json' for stem in STEMS.values())}, or the same as .xml "
    "(github.com/Yale-LILY/dart)"
)
# Of LoRA's Table 13.
METRICS = ("bleu", "meteor", "ter")


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return train, validation and test from the official files in `data_dir`.

    Raises:
        ValueError: there is no `data_dir`, or entries do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    # v1.1.1 is the folder of this version in the repository.
    folders = ("v1.1.1", "data/v1.1.1")
    folder = task_folder("dart", data_dir, EXPECTED, folders=folders)
    paths = _find_files(folder)
    tables = {}
    for split, path in paths.items():
        is_xml = path.name.lower().endswith(".xml")
        tables[split] = _read_xml(path) if is_xml else _read_json(path)
    origin = describe_files(paths.values())
    return generation_task("dart", METRICS, tables, origin)


def _find_files(folder: Path) -> dict[str, Path]:
    paths = {}
    missing = []
    for split, stem in STEMS.items():
        # JSON first, where both are there.
        for suffix in SUFFIXES:
            path = child(folder, stem + suffix)
            if path is not None:
                paths.setdefault(split, path)
        if split not in paths:
            missing.append(f"{stem}.json")
    if missing:
        raise FileNotFoundError(
            f"dart in {folder.name}: expected {', '.join(missing)} (or .xml), "
            f"got {list_folder(folder)}"
        )
    return paths


def _read_xml(path: Path) -> Table:
    sources = []
    targets = []
    # Whoever wrote a text is its mark: all of them count.
    for entry in read_entries(path):
        sources.append(_source(entry.triples))
        targets.append([text.text for text in entry.texts])
    rows = range(1, len(sources) + 1)
    return rows_of_targets(Table(path.name, "entry", rows, {}), sources, targets)


def _read_json(path: Path) -> Table:
    fields = {
        "tripleset": Field("a list of [subject, relation, object]", _are_triples),
        "annotations": Field("a list of {'text': ...}", _are_texts),
    }
    table = read_json_objects(path, fields)
    # Before they become one text, which would take a tokenizer minutes.
    expected = f"at most {MAX_TRIPLES:,} triples"
    raise_problems(table.misfits("tripleset", _are_few, expected))
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


def _are_few(triples: list[Any]) -> bool:
    return len(triples) <= MAX_TRIPLES


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
