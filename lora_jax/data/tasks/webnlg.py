"""WebNLG 2017 (Gardent et al. 2017, ACL P17-1017): triples of DBpedia to sentences.

LoRA's Table 14. Sources are the modified triples, written as in the LoRA authors' NLG
examples. As there, targets marked other than "good" are left out, and the categories
seen in training are the ten below (the paper says nine).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from lora_jax.data.official_files import find_files, task_folder
from lora_jax.data.read_table import Table, raise_problems
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, join_triples

FILES = {"train": "train", "validation": "dev", "test": "test/testdata_with_lex.xml"}
EXPECTED = "train/, dev/ and test/testdata_with_lex.xml (WebNLG Challenge 2017)"
SEEN = (
    "Airport",
    "Astronaut",
    "Building",
    "City",
    "ComicsCharacter",
    "Food",
    "Monument",
    "SportsTeam",
    "University",
    "WrittenWork",
)
METRICS = ("bleu", "meteor", "ter")  # of LoRA's Table 14


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return train, validation and test, and of the last test_seen and test_unseen.

    `data_dir` has the official XML files: train/ and dev/, with .xml files at any
    depth, and test/testdata_with_lex.xml.

    Raises:
        ValueError: there is no `data_dir`, or entries do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    folder = task_folder(
        "webnlg", data_dir, EXPECTED, folders=("webnlg_challenge_2017",)
    )
    tables = {}
    origins = []
    for split, path in find_files("webnlg", folder, FILES).items():
        files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
        tables[split] = _read(split, files)
        origins.append(_describe(split, files))
    tables |= _test_parts(tables["test"])
    return generation_task("webnlg", METRICS, tables, ", ".join(origins))


def _test_parts(test: Table) -> dict[str, Table]:
    """The test rows of seen and of unseen categories; a part without rows is absent."""
    is_seen = [category in SEEN for category in test.columns["category"]]
    is_unseen = [not seen for seen in is_seen]
    parts = {}
    if any(is_seen):
        parts["test_seen"] = test.where(is_seen)
    if any(is_unseen):
        parts["test_unseen"] = test.where(is_unseen)
    return parts


def _read(split: str, files: Sequence[Path]) -> Table:
    columns: dict[str, list[str]] = {"source": [], "target": [], "category": []}
    problems = []
    for file in files:
        for entry in _entries(file):
            triples = _triples(entry)
            if not triples or any(len(triple) != 3 for triple in triples):
                problems.append(
                    f"{file.name}, entry {entry.get('eid')}: expected triples such as "
                    f"'Aarhus | leader | Bo', got {triples}"
                )
            source = join_triples([_stripped(triple) for triple in triples])
            for target in _good_targets(entry):
                columns["source"].append(source)
                columns["target"].append(target)
                columns["category"].append(entry.get("category", ""))
    raise_problems(problems)
    numbers = range(1, len(columns["source"]) + 1)
    return Table(f"webnlg {split}", "row", numbers, columns)


def _entries(file: Path) -> list[ElementTree.Element]:
    try:
        entries = list(ElementTree.fromstring(file.read_bytes()).iter("entry"))
    except ElementTree.ParseError as error:
        raise ValueError(
            f"{file.name}: expected XML, got what is none: {error}"
        ) from None
    if not entries:
        raise ValueError(f"{file.name}: expected XML with <entry> elements, got none")
    return entries


def _triples(entry: ElementTree.Element) -> list[list[str]]:
    triples = []
    for element in entry.iterfind("modifiedtripleset/mtriple"):
        # Only the first two bars separate: an object may hold others.
        triples.append((element.text or "").split(" | ", 2))
    return triples


def _stripped(triple: list[str]) -> list[str]:
    return [part.strip() for part in triple]


def _good_targets(entry: ElementTree.Element) -> list[str]:
    """The texts marked as good, or not marked, that are not blank."""
    targets = []
    for element in entry.iterfind("lex"):
        target = (element.text or "").strip()
        if target and element.get("comment", "good") == "good":
            targets.append(target)
    return targets


def _describe(split: str, files: Sequence[Path]) -> str:
    # Train and dev are dozens of files: one hash of all their bytes, in order.
    joined = b"".join(file.read_bytes() for file in files)
    digest = hashlib.sha256(joined).hexdigest()
    return f"{split}: {len(files)} files sha256:{digest}"
