"""WebNLG 2017 (Gardent et al. 2017, ACL P17-1017): triples of DBpedia to sentences.

LoRA's Table 14. Sources are the modified triples, written as in the LoRA authors' NLG
examples. As there, targets marked other than "good" are left out, and the categories
seen in training are the ten below (the paper says nine). Later releases (1.4, 2.1, 3.0)
are read too.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

from lora_jax.data.folders import all_files, child, find_folder, list_folder
from lora_jax.data.official_files import task_folder
from lora_jax.data.read_bytes import read_bytes
from lora_jax.data.table import Table
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, join_triples, left_out
from lora_jax.data.triples_xml import Entry, Text, read_entries
from lora_jax.plural import counted

# The file or folder of each split; the first that is there.
PLACES = {
    "train": ("train",),
    "validation": ("dev", "validation"),
    "test": (
        "test/testdata_with_lex.xml",
        # Of release 3.
        "test/rdf-to-text-generation-test-data-with-refs-en.xml",
        "test",
    ),
}
EXPECTED = "train/, dev/ and test/testdata_with_lex.xml (WebNLG Challenge 2017)"
# Files of a test folder that repeat parts of others, or have no texts.
OTHER_FILES = ("unseen", "no_lex", "without", "semantic-parsing")
# Releases have a folder for each language.
LANGUAGE = "en"
# Marks and languages that an error lists at most.
LISTED = 5
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

    `data_dir` has the official XML files, maybe some folders deeper: train/ and dev/,
    with .xml files at any depth, and test/testdata_with_lex.xml. A test folder of later
    releases is read likewise.

    Raises:
        ValueError: there is no `data_dir`, or entries do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    root = task_folder("webnlg", data_dir, EXPECTED)
    # Train and dev are folders of files, test is one file or a folder.
    tables = {}
    origins = []
    for split, files in _files(_release(root)).items():
        tables[split] = _read(split, files)
        origins.append(_describe(split, files))
    tables |= _test_parts(tables["test"])
    return generation_task("webnlg", METRICS, tables, ", ".join(origins))


def _release(root: Path) -> Path:
    """The folder that has the splits."""
    releases = find_folder(root, ("train", "dev"))
    english = [folder for folder in releases if folder.name == LANGUAGE]
    if len(english) == 1:
        return english[0]
    if len(releases) > 1:
        names = ", ".join(str(folder) for folder in releases)
        raise ValueError(
            f"webnlg in {root.name}: expected one folder with train and dev, "
            f"got {names}; pass one of them"
        )
    # Without any, what is missing is said of the root.
    return releases[0] if releases else root


def _files(folder: Path) -> dict[str, list[Path]]:
    files_by_split = {}
    missing = []
    for split, places in PLACES.items():
        files: list[Path] = []
        for place in places:
            path = child(folder, place)
            if path is not None and not files:
                files = _xml_files(path)
        if not files:
            missing.append(places[0])
        files_by_split[split] = files
    if missing:
        raise FileNotFoundError(
            f"webnlg in {folder.name}: expected {', '.join(missing)} with XML, "
            f"got {list_folder(folder)}"
        )
    return files_by_split


def _xml_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = []
    for file in all_files(path, ".xml"):
        if not any(part in file.name.lower() for part in OTHER_FILES):
            files.append(file)
    return files


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
    entries = []
    for file in files:
        entries += read_entries(file)
    empty = 0
    for entry in entries:
        source = join_triples(entry.triples)
        good = [text.text for text in entry.texts if _is_good(text)]
        empty += not good
        for target in good:
            sources.append(source)
            targets.append(target)
            categories.append(entry.category)
    if not sources:
        _raise_no_texts(split, entries)
    # Rows are numbered over all files of the split.
    table = Table(
        file=f"webnlg {split}",
        unit="row",
        rows=range(1, len(sources) + 1),
        columns={"source": sources, "target": targets, "category": categories},
    )
    return table._replace(notes=_notes(table.file, entries, empty))


def _is_good(text: Text) -> bool:
    # The corpus marks texts as good or to be fixed; one without a mark is good.
    is_marked = text.mark.lower() in ("good", "")
    return bool(text.text) and is_marked and _is_english(text)


def _is_english(text: Text) -> bool:
    # Release 3 has Russian beside it. Texts without a language are English.
    return text.language.lower()[:2] in ("", LANGUAGE)


def _notes(file: str, entries: Sequence[Entry], empty: int) -> tuple[str, ...]:
    notes = []
    if empty:
        reason = "which have no English text that is marked good"
        notes.append(left_out(file, empty, len(entries), reason))
    texts = list(chain.from_iterable(entry.texts for entry in entries))
    if others := sum(not _is_english(text) for text in texts):
        notes.append(
            f"{file}: {others:,} of {len(texts):,} texts are left out, which are in "
            "another language than English"
        )
    return tuple(notes)


def _raise_no_texts(split: str, entries: Sequence[Entry]) -> NoReturn:
    texts = list(chain.from_iterable(entry.texts for entry in entries))
    marks = sorted({repr(text.mark) for text in texts})[:LISTED]
    languages = sorted({repr(text.language) for text in texts})[:LISTED]
    blank = sum(not text.text for text in texts)
    summary = f"{counted(len(entries), 'entry', 'entries')} with no <lex>"
    if texts:
        summary = (
            f"{counted(len(texts), '<lex>', '<lex>')}, {blank:,} of them blank, with the "
            f"comment {' or '.join(marks)} and the lang {' or '.join(languages)}"
        )
    raise ValueError(
        f'webnlg {split}: expected <lex comment="good"> with an English text, '
        f"got {summary}"
    )


def _describe(split: str, files: Sequence[Path]) -> str:
    # Train and dev are dozens of files: one hash of all their bytes, in order.
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(read_bytes(file))
    return f"{split}: {len(files)} files sha256:{sha256.hexdigest()}"
