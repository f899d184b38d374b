"""WikiSQL: queries in words, and both layouts of files."""

import pytest

from lora_jax import data
from lora_jax.data.tasks import wikisql
from tests.data.files import json_lines, message, pairs, shared, sizes, write

HEADER = ["Player", "No.", "School/Club Team"]
TABLE = "table: 1-10\ncolumns: Player, No., School/Club Team"
COUNT = {"sel": 0, "agg": 3, "conds": [[1, 0, "3"]]}
COUNT_IN_WORDS = "SELECT COUNT Player FROM 1-10 WHERE No. = '3'"
PLAIN = {"sel": 0, "agg": 3, "conds": []}


def wikisql_files(folder, query, **changes):
    """The official layout with one question in each split."""
    question = {"phase": 1, "question": "How many? ", "table_id": "1-10", "sql": query}
    table = {"id": "1-10", "header": HEADER, "rows": [["a", 1, "b"]]}
    for name in ("train", "dev", "test"):
        write(folder / f"{name}.jsonl", json_lines(question | changes))
        write(folder / f"{name}.tables.jsonl", json_lines(table))
    return folder


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"sel": 2, "agg": 0, "conds": []}, "SELECT School/Club Team FROM 1-10"),
        (COUNT, COUNT_IN_WORDS),
        (
            {"sel": 1, "agg": 1, "conds": [[1, 1, 3.5], [0, 2, 4]]},
            "SELECT MAX No. FROM 1-10 WHERE No. > 3.5 AND Player < 4",
        ),
    ],
)
def test_sql_in_words(query, expected):
    assert wikisql.sql(query, "1-10", HEADER) == expected


def test_both_layouts_agree(tmp_path):
    official_folder = wikisql_files(tmp_path / "official/data", COUNT)
    text = f"{TABLE}\nQ: How many? \nA: {COUNT_IN_WORDS}"
    for name in ("train", "valid", "test"):
        write(tmp_path / f"text/{name}.jsonl", json_lines({"text": text}))
    official = data.load("wikisql", data_dir=official_folder.parent)
    written = data.load("wikisql", data_dir=tmp_path / "text")
    assert pairs(official.splits["test"]) == [
        (f"{TABLE}\nQ: How many?", COUNT_IN_WORDS)
    ]
    assert list(official.splits) == list(written.splits)
    for name, examples in official.splits.items():
        assert pairs(examples) == pairs(written.splits[name])
    assert official.metrics == ("exact_match",)
    assert "train.tables.jsonl sha256:" in official.source
    assert "valid.jsonl" in written.source


@pytest.mark.parametrize(
    "query",
    [
        PLAIN | {"sel": 3},
        PLAIN | {"sel": -1},
        {"sel": 0},
        PLAIN | {"agg": 6},
        PLAIN | {"conds": [[1]]},
        None,
    ],
)
def test_queries_that_do_not_fit_their_table(tmp_path, query):
    text = message(data.load, "wikisql", data_dir=wikisql_files(tmp_path, query))
    assert (
        "train.jsonl, line 1: sql: expected sel, agg and conds that fit its table"
    ) in text


def test_questions_that_do_not_fit(tmp_path):
    folder = wikisql_files(tmp_path, PLAIN, table_id="9")
    text = message(data.load, "wikisql", data_dir=folder)
    assert (
        "train.jsonl, line 1: table_id: expected the id of a table in "
        "train.tables.jsonl, got '9'"
    ) in text
    folder = wikisql_files(tmp_path, PLAIN, question=3)
    text = message(data.load, "wikisql", data_dir=folder)
    assert "train.jsonl, line 1: question: expected text, got 3" in text


def test_tables_that_do_not_fit_or_are_missing(tmp_path):
    wikisql_files(tmp_path, PLAIN)
    table = json_lines({"id": "1-10", "header": "Player"})
    write(tmp_path / "test.tables.jsonl", table)
    text = message(data.load, "wikisql", data_dir=tmp_path)
    assert (
        "test.tables.jsonl, line 1: header: expected a list of column names, "
        "got 'Player'"
    ) in text
    (tmp_path / "test.tables.jsonl").unlink()
    text = message(data.load, "wikisql", data_dir=tmp_path, error=FileNotFoundError)
    assert "expected test.tables.jsonl, got dev.jsonl" in text


def test_written_texts_need_an_answer(tmp_path):
    for name in ("train", "valid", "test"):
        write(tmp_path / f"{name}.jsonl", json_lines({"text": "no answer"}))
    text = message(data.load, "wikisql", data_dir=tmp_path)
    assert "line 1: text: expected a line 'A: SELECT ...', got 'no answer'" in text


def test_real_wikisql_text():
    task = data.load("wikisql", data_dir=shared("wikisql_text"))
    assert sizes(task) == {"train": 1000, "validation": 100, "test": 100}
    for examples in task.splits.values():
        assert all(target.startswith("SELECT ") for _, target in pairs(examples))
