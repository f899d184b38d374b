"""WebNLG: the official XML files, with seen and unseen categories."""

import zipfile

import numpy as np
import pytest

from lora_jax import data
from lora_jax.data import triples_xml
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


def enriched(text, mark=' comment="good"'):
    """An entry of release 1.4, or of release 3 without its elements but `lex`."""
    return (
        '<entry category="Airport" eid="1" size="1"><modifiedtripleset>'
        f"<mtriple>{RUNWAY}</mtriple></modifiedtripleset>"
        f"<lex{mark} lid='Id1'>{text}</lex></entry>"
    )


def test_release_1_4_has_an_element_of_the_text(tmp_path):
    for split in ("train", "dev", "test"):
        lex = f"<sortedtripleset/>\n<text>It is {split}.</text><template>x</template>"
        folder = tmp_path / "data/v1.4/en" / split / "1triples"
        write(folder / "Airport.xml", benchmark(enriched(lex)))
        write(tmp_path / "data/v1.4/de" / split / "1triples/Airport.xml", "never read")
    splits = data.load("webnlg", data_dir=tmp_path).splits
    assert pairs(splits["train"]) == [(AIRPORT, "It is train.")]
    assert splits["test_seen"].pair == ["It is test."]
    for split in ("train", "dev"):
        (tmp_path / "data/v1.4/en" / split).rename(tmp_path / f"data/v1.4/fr{split}")
        write(tmp_path / f"data/v1.4/ru/{split}/a.xml", "never read")
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert "expected one folder with train and dev, got " in text


def test_release_3_marks_its_texts_with_nothing(tmp_path):
    entries = benchmark(
        enriched("It is long.", mark=' comment="" lang=""'),
        enriched("Not good.", mark=' comment="toFix"'),
    )
    name = "test/rdf-to-text-generation-test-data-with-refs-en.xml"
    for file in ("train/1triples/Airport.xml", "dev/1triples/Airport.xml", name):
        write(tmp_path / "en" / file, entries)
    write(tmp_path / "en/test/semantic-parsing-test-data-with-refs-en.xml", entries)
    task = data.load("webnlg", data_dir=tmp_path)
    assert pairs(task.splits["test"]) == [(AIRPORT, "It is long.")]
    assert task.notes[0] == (
        "webnlg train: 1 of 2 entries are left out, which have no English text that is "
        "marked good"
    )


def test_texts_with_elements_in_them_are_whole(tmp_path):
    train = (
        enriched("The city <b>A<i>20</i></b> is\n  led.<template>T</template>"),
        enriched("<references/><text>It is <b>long</b>, <i/>too.</text>"),
        enriched("<Text>Two  spaces.</Text><template>x</template>"),
        entry("Airport", ("Good", "x"), triples=("A | b | <i>c</i> d",)),
    )
    webnlg_files(tmp_path, *train)
    assert pairs(data.load("webnlg", data_dir=tmp_path).splits["train"])[:4] == [
        (AIRPORT, "The city A20 is led."),
        (AIRPORT, "It is long, too."),
        (AIRPORT, "Two  spaces."),
        ("A : b : c d", "x"),
    ]


def test_other_languages_are_left_out_and_counted(tmp_path):
    train = (
        enriched("Город.", mark=' lang="ru"'),
        enriched("Город.", mark=' xml:lang="ru"'),
        enriched("A town.", mark=' lang="en-GB"'),
        enriched("A city."),
    )
    task = data.load("webnlg", data_dir=webnlg_files(tmp_path, *train))
    assert task.splits["train"].pair == ["A town.", "A city.", "Rice."]
    assert task.notes == (
        "webnlg train: 2 of 5 entries are left out, which have no English text that is "
        "marked good",
        "webnlg train: 2 of 5 texts are left out, which are in another language than "
        "English",
    )


@pytest.mark.parametrize(
    ("lex", "got"),
    [
        (
            '<lex comment="Bad">x</lex>',
            "1 <lex>, 0 of them blank, with the comment 'Bad'",
        ),
        ('<lex comment="good"><text/></lex>', "1 <lex>, 1 of them blank"),
        ('<lex lang="ru">x</lex>', "the comment '' and the lang 'ru'"),
        ("<Lex>x</Lex>", "got 1 entry with no <lex>"),
    ],
)
def test_a_split_without_texts_says_what_was_expected(tmp_path, lex, got):
    bad = entry("Food").replace("</entry>", f"{lex}</entry>")
    webnlg_files(tmp_path, bad)
    write(tmp_path / "dev/1triples/Food.xml", benchmark(bad))
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert 'webnlg validation: expected <lex comment="good"> with' in text
    assert got in text


def test_what_macos_adds_is_no_data(tmp_path):
    folder = webnlg_files(tmp_path / "webnlg", entry("Airport", ("good", "x")))
    expected = data.load("webnlg", data_dir=folder)
    write(folder / "train/1triples/._Airport.xml", "\0")
    for split in ("train", "dev"):
        write(tmp_path / f"__MACOSX/{split}/._a.xml", "\0")
    np.testing.assert_equal(data.load("webnlg", data_dir=tmp_path), expected)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(tmp_path.rglob("*.xml")):
            archive.write(file, file.relative_to(tmp_path))
    np.testing.assert_equal(data.load("webnlg", data_dir=tmp_path / "a.zip"), expected)


def test_an_archive_has_the_same_rows(tmp_path):
    folder = webnlg_files(tmp_path / "webnlg", entry("Airport", ("good", "x")))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(folder.rglob("*.xml")):
            archive.write(file, file.relative_to(tmp_path))
    first = data.load("webnlg", data_dir=folder)
    np.testing.assert_equal(data.load("webnlg", data_dir=tmp_path / "a.zip"), first)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('<?xml version="1.0" encoding="none"?><a/>', "unknown encoding: none"),
        ('<?xml version="1.0" encoding="base64"?><a/>', "'base64' is not a text enc"),
        (
            '<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><a>&c;</a>',
            "the document type 'a' is refused",
        ),
        ("<a>" * 1000, "elements are nested more than 50 levels deep"),
        ("", "no element found"),
    ],
)
def test_hostile_xml(tmp_path, content, expected):
    webnlg_files(tmp_path, entry("Airport", ("good", "x")))
    write(tmp_path / "train/1triples/Airport.xml", content)
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert text.startswith("Airport.xml: expected XML, got what is none: ")
    assert expected in text


def test_xml_of_many_elements(tmp_path, monkeypatch):
    monkeypatch.setattr(triples_xml, "MAX_ELEMENTS", 10)
    webnlg_files(tmp_path, *[entry("Airport", ("good", "x"))] * 3)
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert "Airport.xml: expected XML, got what is none: there are more than 10" in text


def test_bad_triples_are_told_by_entry(tmp_path):
    bad = entry("Airport", ("good", "x"), triples=("A - b - c",), eid="Id7")
    webnlg_files(tmp_path, bad)
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert (
        "Airport.xml, entry Id7: expected triples such as 'Aarhus | leader | Bo', "
        "got [['A - b - c']]"
    ) in text


def test_two_texts_or_many_triples_are_told_by_entry(tmp_path):
    two = enriched("<text>x</text><text>y</text>")
    many = entry("Airport", triples=(RUNWAY,) * 1001, eid="Id8")
    webnlg_files(tmp_path, two, many)
    text = message(data.load, "webnlg", data_dir=tmp_path)
    assert "Airport.xml, entry 1: expected one <text> in a <lex>, got 2" in text
    assert "Airport.xml, entry Id8: expected at most 1,000 triples, got 1,001" in text


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
    assert "expected test/testdata_with_lex.xml with XML, got dev, test, train" in text
