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
# Categories of the training split; the others are in the test split alone.
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
# Of LoRA's Table 14.
METRICS = ("bleu", "meteor", "ter")


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
    # Train and dev are folders of files, test is one file.
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
    categories = test.columns["category"]
    is_seen = [category in SEEN for category in categories]
    is_unseen = [not seen for seen in is_seen]
    parts = {}
    if any(is_seen):
        parts["test_seen"] = test.where(is_seen)
    if any(is_unseen):
        parts["test_unseen"] = test.where(is_unseen)
    return parts


def _read(split: str, files: Sequence[Path]) -> Table:
    sources = []
    targets = []
    categories = []
    problems = []
    for file in files:
        for entry in _entries(file):
            # A subject, a relation and an object each, one triple or more.
            triples = _triples(entry)
            if not triples or any(len(triple) != 3 for triple in triples):
                problems.append(
                    f"{file.name}, entry {entry.get('eid')}: expected triples such as "
                    f"'Aarhus | leader | Bo', got {triples}"
                )
            source = join_triples(triples)
            for target in _good_targets(entry):
                sources.append(source)
                targets.append(target)
                categories.append(entry.get("category"))
    raise_problems(problems)
    # Rows are numbered over all files of the split.
    return Table(
        file=f"webnlg {split}",
        unit="row",
        rows=range(1, len(sources) + 1),
        columns={"source": sources, "target": targets, "category": categories},
    )


def _entries(file: Path) -> list[ElementTree.Element]:
    # Only elements and text are read: no entity of the outside is resolved.
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
        parts = (element.text or "").split(" | ", 2)
        triples.append([part.strip() for part in parts])
    return triples


def _good_targets(entry: ElementTree.Element) -> list[str]:
    """The texts marked as good, or not marked, that are not blank."""
    # Each is one person's text.
    targets = []
    for element in entry.iterfind("lex"):
        target = (element.text or "").strip()
        # The corpus marks texts as good or to be fixed; one without a mark is good.
        if target and element.get("comment", "good") == "good":
            targets.append(target)
    return targets


def _describe(split: str, files: Sequence[Path]) -> str:
    # Train and dev are dozens of files: one hash of all their bytes, in order.
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(file.read_bytes())
    return f"{split}: {len(files)} files sha256:{sha256.hexdigest()}"
