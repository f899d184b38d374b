"""DART: triples and their sentences from the official JSON files."""

from lora_jax import data
from tests.data.files import message, pairs, write


def dart_files(folder, *entries):
    """The official files, all with the same entries."""
    for name in ("train", "dev", "test"):
        write(folder / f"dart-v1.1.1-full-{name}.json", list(entries))
    return folder


def test_a_row_for_each_sentence(tmp_path):
    school = {
        "tripleset": [["Mars Hill", "JOINED", "1973"], ["Mars Hill", "TOWN", "NC"]],
        "annotations": [
            {"source": "s", "text": "It joined. "},
            {"source": "s", "text": "In 1973."},
        ],
    }
    blank = {
        "tripleset": [["A", "B", "C"]],
        "annotations": [{"text": " "}],
        "subtree_was_extended": True,
    }
    task = data.load("dart", data_dir=dart_files(tmp_path, school, blank))
    source = "Mars Hill : joined : 1973 | Mars Hill : town : NC"
    assert pairs(task.splits["validation"]) == [
        (source, "It joined."),
        (source, "In 1973."),
    ]
    assert list(task.splits) == ["train", "validation", "test"]
    assert "bleu" in task.metrics
    assert task.generates
    assert task.source.count(".json sha256:") == 3
    assert task.notes[0] == (
        "dart-v1.1.1-full-train.json: 1 of 2 entries are left out, which lack a source "
        "or a target"
    )


def test_xml_has_the_same_rows(tmp_path):
    triples = "<mtriple>Mars Hill | JOINED | 1973</mtriple><mtriple>A | B | </mtriple>"
    entry = (
        '<entry category="MISC" eid="Id1" size="2">'
        f"<modifiedtripleset>{triples}</modifiedtripleset>"
        '<lex comment="WikiSQL_decl_sents" lid="Id1">It joined.</lex>'
        '<lex comment="WikiTableQuestions_mturk" lid="Id2">In 1973.</lex></entry>'
    )
    for name in ("train", "dev", "test"):
        write(
            tmp_path / f"data/v1.1.1/dart-v1.1.1-full-{name}.xml",
            f"<?xml version='1.0' encoding='utf-8'?><benchmark><entries>{entry}"
            "</entries></benchmark>",
        )
    task = data.load("dart", data_dir=tmp_path)
    source = "Mars Hill : joined : 1973 | A : b :"
    assert pairs(task.splits["test"]) == [(source, "It joined."), (source, "In 1973.")]
    assert task.source.count(".xml sha256:") == 3
    (tmp_path / "data/v1.1.1/dart-v1.1.1-full-dev.xml").unlink()
    text = message(data.load, "dart", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected dart-v1.1.1-full-dev.json (or .xml), got dart-v1.1.1-full-" in text


def test_misfits_are_told_by_entry(tmp_path):
    bad = {"tripleset": [["A", "B"]], "annotations": [{"lex": "x"}]}
    text = message(data.load, "dart", data_dir=dart_files(tmp_path, bad))
    assert (
        "full-train.json, entry 1: tripleset: expected a list of "
        "[subject, relation, object], got [['A', 'B']]"
    ) in text
    expected = "full-train.json, entry 1: annotations: expected a list of {'text': ...}"
    assert expected in text
    text = message(data.load, "dart", data_dir=dart_files(tmp_path, {"triples": 1}))
    assert "expected a column 'tripleset', got triples (is 'triples' meant?)" in text


def test_an_entry_of_many_triples(tmp_path):
    many = {"tripleset": [["A", "B", "C"]] * 1001, "annotations": []}
    text = message(data.load, "dart", data_dir=dart_files(tmp_path, many))
    assert "full-train.json, entry 1: tripleset: expected at most 1,000 tr" in text


def test_what_is_no_list_of_objects_is_told_by_file(tmp_path):
    dart_files(tmp_path)
    write(tmp_path / "dart-v1.1.1-full-train.json", {"a": 1})
    text = message(data.load, "dart", data_dir=tmp_path)
    assert "expected a JSON list of objects, with tripleset, annotations" in text
    write(tmp_path / "dart-v1.1.1-full-train.json", "[" * 1000)
    text = message(data.load, "dart", data_dir=tmp_path)
    assert "got what is none: brackets are nested more than 100 levels deep" in text
    write(tmp_path / "dart-v1.1.1-full-train.json", "[")
    text = message(data.load, "dart", data_dir=tmp_path)
    assert "full-train.json: expected JSON, got what is none" in text


def test_without_a_folder_the_error_names_the_files():
    assert (
        "dart is read from its official files: pass data_dir, a folder with dart-v1.1.1"
    ) in message(data.load, "dart")
