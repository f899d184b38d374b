"""WebNLG: the official XML files, with seen and unseen categories."""

import numpy as np

from lora_jax import data
from tests.data.files import message, pairs, write

RUNWAY = "Aarhus_Airport | runwayLength | 2702.0"
AIRPORT = "Aarhus_Airport : runwayLength : 2702.0"


def entry(category, *texts, triples=(RUNWAY,), eid="Id1"):
    """An entry as XML; `texts` are (comment, text)."""
    elements = "".join(f"<mtriple>{triple}</mtriple>" for triple in triples)
    lexes = "".join(f'<lex comment="{mark}">{text}</lex>' for mark, text in texts)
    return (
        f'<entry category="{category}" eid="{eid}" size="1">'
        "<originaltripleset><otriple>a | b | c</otriple></originaltripleset>"
        f"<modifiedtripleset>{elements}</modifiedtripleset>{lexes}</entry>"
    )


def benchmark(*entries):
    return f"<benchmark><entries>{''.join(entries)}</entries></benchmark>"


def webnlg_files(folder, *train):
    """The official folder with these entries in one of its training files."""
    rice = entry("Food", ("good", "Rice."))
    two_triples = entry(
        "Food", ("good", "Rice."), triples=("A | b | c", "C | d | e | f")
    )
    write(folder / "train/1triples/Airport.xml", benchmark(*train))
    write(folder / "train/2triples/Food.xml", benchmark(two_triples))
    write(folder / "dev/1triples/Food.xml", benchmark(rice))
    test = benchmark(
        entry("City", ("good", "One."), ("good", "Two.")),
        entry("Artist", ("good", "Three."), triples=("M | born | 1",)),
    )
    write(folder / "test/testdata_with_lex.xml", test)
    write(folder / "test/testdata_unseen_with_lex.xml", "never read")
    return folder


def test_sources_and_targets_of_the_official_files(tmp_path):
    train = entry("Airport", ("good", " 2 &lt; 3. "), ("toFix", "no"))
    folder = webnlg_files(tmp_path / "webnlg_challenge_2017", train)
    task = data.load("webnlg", data_dir=tmp_path)
    assert task.generates
    # A text to be fixed is left out; only the first two bars of a triple separate.
    assert pairs(task.splits["train"]) == [
        (AIRPORT, "2 < 3."),
        ("A : b : c | C : d : e | f", "Rice."),
    ]
    assert "train: 2 files sha256:" in task.source
    np.testing.assert_equal(data.load("webnlg", data_dir=folder), task)


def test_the_test_split_has_seen_and_unseen_categories(tmp_path):
    webnlg_files(tmp_path, entry("Airport", ("good", "x")))
    splits = data.load("webnlg", data_dir=tmp_path).splits
    assert list(splits) == ["train", "validation", "test", "test_seen", "test_unseen"]
    assert pairs(splits["test"]) == [
        (AIRPORT, "One."),
        (AIRPORT, "Two."),
        ("M : born : 1", "Three."),
    ]
    assert splits["test_seen"].pair == ["One.", "Two."]
    assert splits["test_unseen"].pair == ["Three."]


def test_bad_triples_are_told_by_entry(tmp_path):
    bad = entry("Airport", ("good", "x"), triples=("A - b - c",), eid="Id7")
    webnlg_files(tmp_path, bad)
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert (
        "Airport.xml, entry Id7: expected triples such as 'Aarhus | leader | Bo', "
        "got [['A - b - c']]"
    ) in text


def test_what_is_no_xml_is_told_by_file(tmp_path):
    webnlg_files(tmp_path, entry("Airport", ("good", "x")))
    write(tmp_path / "train/1triples/Airport.xml", "<benchmark>")
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert "Airport.xml: expected XML, got what is none: no element found" in text
    write(tmp_path / "train/1triples/Airport.xml", "<benchmark/>")
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert "Airport.xml: expected XML with <entry> elements" in text


def test_missing_files_are_named(tmp_path):
    webnlg_files(tmp_path, entry("Airport", ("good", "x")))
    (tmp_path / "test/testdata_with_lex.xml").unlink()
    text = message(data.load, "webnlg", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected test/testdata_with_lex.xml, got dev, test, train" in text
