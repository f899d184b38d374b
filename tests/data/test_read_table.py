"""Tables of every format, read as a user's own files."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import data
from lora_jax.data import read_table, table
from tests.data.files import message, pairs, write

SPLIT = "text,label,split\nbad,neg,train\ngood,pos,train\nfine,pos,validation\n"
# NUL is in no text of these formats but of JSON.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1
).filter(str.strip)
COLUMNS = ["text", "text_pair", "label", "split"]


def test_formats_agree(tmp_path):
    rows = []
    for i, split in enumerate(["train"] * 4 + ["validation"] * 2):
        rows.append((f"t{i}", f"p{i}", i % 2, split))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    tasks = [data.load(tmp_path / f"a{suffix}") for suffix in read_table.FORMATS]
    first = tasks[0]
    assert first.splits["train"].pair == ["p0", "p1", "p2", "p3"]
    for other in tasks[1:]:
        for name, examples in first.splits.items():
            np.testing.assert_equal(other.splits[name]._asdict(), examples._asdict())


def test_lines_count_past_line_breaks_in_quotes(tmp_path):
    rows = '"a\nb",x,train\n\nc,y,train\n,x,validation\n'
    path = write(tmp_path / "a.csv", "text,label,split\n" + rows)
    assert "a.csv, line 6: text" in message(data.load, path)


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(SPLIT.encode() + "café,pos,train\n".encode("latin-1"))
    assert message(data.load, path) == (
        "a.csv, line 5: expected UTF-8, got the byte 0xe9; save the file as UTF-8"
    )


def test_text_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(SPLIT.encode("utf-16"))
    text = message(data.load, path)
    assert text == "a.csv: expected UTF-8, got UTF-16; save the file as UTF-8"
    path.write_bytes(SPLIT.encode("utf-16-le"))
    assert "a.csv, line 1: expected UTF-8, got the character NUL" in message(
        data.load, path
    )


def test_cells_that_a_file_leaves_out_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAX_CELLS", 1000)
    wide = ",".join(f"c{column}" for column in range(100))
    path = write(tmp_path / "a.csv", wide + "\n" + "1\n" * 11)
    assert "a table of at most 1,000 cells, got 1,100" in message(data.load, path)
    keys = json.dumps({f"c{column}": 1 for column in range(100)})
    path = write(tmp_path / "a.jsonl", keys + "\n" + "{}\n" * 10)
    assert "a table of at most 1,000 cells, got 1,100" in message(data.load, path)


def test_a_text_of_a_million_characters_is_a_text(tmp_path):
    long = "word, " * 200_000
    path = write(tmp_path / "a.csv", SPLIT + f'"{long}",neg,train\n')
    assert data.load(path).splits["train"].text[-1] == long


@pytest.mark.parametrize(
    ("name", "delimiter", "word"),
    [
        ("a.csv", ";", "a semicolon"),
        ("a.csv", "\t", "a tab"),
        ("a.csv", "|", "a bar"),
        ("a.tsv", ",", "a comma"),
        ("a.tsv", ";", "a semicolon"),
    ],
)
def test_another_delimiter_is_that_of_the_header(tmp_path, name, delimiter, word):
    text = SPLIT.replace(",", delimiter) + f'"so{delimiter} so",neg,train\n'
    text = text.replace(",neg,train\n", f"{delimiter}neg{delimiter}train\n")
    task = data.load(write(tmp_path / name, text))
    assert task.splits["train"].text == ["bad", "good", f"so{delimiter} so"]
    assert task.notes == (f"{name}: the fields are separated by {word}",)
    # The usual one comes first.
    assert data.load(write(tmp_path / "b.csv", SPLIT)).notes == ()


def test_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path / "a.csv", "\ufeff" + SPLIT)
    assert data.load(path).labels == ("neg", "pos")


def test_parquet_rows_count_from_1_and_absent_labels_leave_integers_whole(tmp_path):
    labels = pd.array([0, 1, None, 1], "Int64")
    frame = pd.DataFrame({"text": list("abcd"), "label": labels})
    splits = ["train", "train", "train", "validation"]
    frame.assign(split=splits).to_parquet(tmp_path / "a.parquet")
    text = message(data.load, tmp_path / "a.parquet")
    assert "a.parquet, row 3: label: expected one of 0, 1, got None" in text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.csv",
            SPLIT + "x,neg,train,1\n",
            "a.csv, line 5: expected 3 fields (text, label, split), got 4",
        ),
        (
            "a.csv",
            SPLIT + '"x,neg,train\n',
            "a.csv: the row from line 5 on cannot be read: unexpected end of data",
        ),
        (
            "a.csv",
            "text,text,label\na,b,1\n",
            "a.csv: the column 'text' is there more than once",
        ),
        (
            "a.csv",
            SPLIT + "a\n",
            "a.csv, line 5: split: expected one of train, validation, test, got None",
        ),
        ("a.csv", "text,label\n", "a.csv: expected rows, got none"),
        (
            "a.csv",
            SPLIT + "a\0b,neg,train\n",
            "a.csv, line 5: expected UTF-8, got the character NUL",
        ),
        (
            "a.csv",
            ",".join(f"c{column}" for column in range(1001)) + "\n",
            "a.csv, line 1: expected at most 1,000 columns, got 1,001",
        ),
        (
            "a.csv",
            "," * 200_000 + "\n",
            "a.csv, line 1: expected at most 1,000 columns, got 200,001",
        ),
        (
            "a.csv",
            "text,label\n" + "a,b,c\n" * 2000,
            "1,000 problems or more in the data:\n  a.csv, line 2: expected 2 fields",
        ),
        (
            "a.jsonl",
            "".join(f'{{"k{line}": 1}}\n' for line in range(1001)),
            "a.jsonl: expected a table of at most 1,000 columns, got 1,001",
        ),
        (
            "a.jsonl",
            '{"a": ' * 1000,
            "a.jsonl, line 1: expected a JSON object, got what is not JSON "
            "(brackets are nested more than 100 levels deep)",
        ),
        (
            "a.jsonl",
            '{"label": ' + "1" * 130_000 + "}",
            "line 1: expected a JSON object, got what is not JSON (Exceeds the limit",
        ),
        ("a.csv", "", "a.csv: expected rows, got none"),
        (
            "a.txt",
            SPLIT,
            "a.txt: expected a file of .csv, .tsv, .jsonl, .parquet, got .txt",
        ),
        ("a.parquet", SPLIT, "a.parquet: not a readable Parquet file: "),
        (
            "a.jsonl",
            '{"text": "a"\n',
            "a.jsonl, line 1: expected a JSON object, got what is not JSON (Expecting",
        ),
        ("a.jsonl", "\n[1]\n", "a.jsonl, line 2: expected a JSON object, got [1]"),
    ],
)
def test_unreadable_files_are_told_by_line(tmp_path, name, text, expected):
    assert expected in message(data.load, write(tmp_path / name, text))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["yes", "no"])), min_size=1))
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_any_text_survives_a_file(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    written = [("a", "b", "yes", "train"), ("a", "b", "no", "train")]
    for row in rows:
        written.append((*row, "validation"))
    frame = pd.DataFrame(written, columns=COLUMNS)
    if suffix == ".jsonl":
        lines = []
        for record in frame.to_dict("records"):
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        write(path, "".join(lines))
    elif suffix == ".csv":
        frame.to_csv(path, index=False, lineterminator="\n", quoting=1)
    else:
        frame.to_parquet(path)
    examples = data.load(path).splits["validation"]
    assert pairs(examples) == [row[:2] for row in rows]
