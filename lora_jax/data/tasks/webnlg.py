"""WebNLG 2017 (Gardent et al. 2017, ACL P17-1017): triples of DBpedia into sentences, on subjects seen and unseen.

LoRA's Table 14. Sources are the modified triples, written as in the LoRA authors' NLG examples; as there, targets marked
other than "good" are left out, and the seen categories are the ten below (the paper says nine).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from lora_jax.data import text_pairs
from lora_jax.data.read_table import Table, refuse
from lora_jax.data.task import Task, refuse_split_seed

FILES = {"train": "train", "validation": "dev", "test": "test/testdata_with_lex.xml"}
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


def load(*, data_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """The splits train, validation, test, and of the last test_seen and test_unseen, from the official XML files.

    `data_dir` has train/ and dev/, with .xml files at any depth, and test/testdata_with_lex.xml. Raises ValueError without
    it or naming the entries that do not fit, FileNotFoundError when files are missing.
    """
    refuse_split_seed("webnlg", split_seed)
    expected = "train/, dev/ and test/testdata_with_lex.xml (WebNLG Challenge 2017)"
    place = text_pairs.home(
        "webnlg", data_dir, expected, folders=("webnlg_challenge_2017",)
    )
    files = {
        split: sorted(path.rglob("*.xml")) if path.is_dir() else [path]
        for split, path in text_pairs.find("webnlg", place, FILES).items()
    }
    tables = {split: _table(split, paths) for split, paths in files.items()}
    seen = [category in SEEN for category in tables["test"].columns["category"]]
    for name, rows in (("test_seen", seen), ("test_unseen", [not row for row in seen])):
        if any(rows):
            tables[name] = tables["test"].where(rows)
    origin = ", ".join(_provenance(split, paths) for split, paths in files.items())
    return text_pairs.task("webnlg", METRICS, tables, origin)


def _table(split: str, files: Sequence[Path]) -> Table:
    rows, problems = [], []
    for file in files:
        for entry in _entries(file):
            triples = [
                (triple.text or "").split(" | ", 2)
                for triple in entry.iterfind("modifiedtripleset/mtriple")
            ]
            if not triples or any(len(triple) != 3 for triple in triples):
                place = f"{file.name}, entry {entry.get('eid')}"
                problems.append(
                    f"{place}: expected triples such as 'Aarhus | leader | Bo', got {triples}"
                )
            good = [
                lex.text or ""
                for lex in entry.iterfind("lex")
                if lex.get("comment", "good") == "good"
            ]
            source = text_pairs.triples(
                [part.strip() for part in triple] for triple in triples
            )
            rows += [
                (source, text.strip(), entry.get("category"))
                for text in good
                if text.strip()
            ]
    refuse(problems)
    columns = {
        name: [row[i] for row in rows]
        for i, name in enumerate(("source", "target", "category"))
    }
    return Table(f"webnlg {split}", "row", range(1, len(rows) + 1), columns)


def _entries(file: Path) -> list[ElementTree.Element]:
    try:
        found = list(ElementTree.fromstring(file.read_bytes()).iter("entry"))
    except ElementTree.ParseError as error:
        raise ValueError(
            f"{file.name}: expected XML, got what is none: {error}"
        ) from None
    if not found:
        raise ValueError(f"{file.name}: expected XML with <entry> elements, got none")
    return found


def _provenance(split: str, files: Sequence[Path]) -> str:
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"{split}: {len(files)} files sha256:{digest}"
