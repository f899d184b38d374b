import bz2
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import data, download
from lora_jax.data import read_table
from lora_jax.data.task import hashed_split
from lora_jax.data.tasks import glue, rotten_tomatoes
from lora_jax.metrics import METRICS


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def message(call, *args, error: type[Exception] = ValueError, **keywords) -> str:
    with pytest.raises(error) as caught:
        call(*args, **keywords)
    return str(caught.value)


# Tasks


def test_unknown_task_lists_candidates_and_near_misses():
    text = message(data.load, "roten-tomatoes")
    assert (
        "rotten-tomatoes, cola, sst2" in text
        and "got 'roten-tomatoes'; is rotten-tomatoes meant?" in text
    )


def test_missing_file_is_said_to_be_missing(tmp_path):
    for name in ("reviews.csv", "./reviews", tmp_path / "reviews"):
        assert (
            message(data.load, name, error=FileNotFoundError)
            == f"the data file {str(name)!r} does not exist"
        )


def test_every_glue_metric_exists():
    assert {metric for spec in glue.SPECS.values() for metric in spec.metrics} <= set(
        METRICS
    )
    assert set(data.TASKS) >= {
        "rotten-tomatoes",
        "cola",
        "sst2",
        "mrpc",
        "qqp",
        "stsb",
        "mnli",
        "qnli",
        "rte",
        "wnli",
    }


def test_hashed_split_is_the_documented_hash():
    bucket = int(hashlib.sha256(b"heat").hexdigest()[:8], 16) % 10
    assert hashed_split("heat") == {0: "test", 1: "validation"}.get(bucket, "train")
    splits = [hashed_split(str(i)) for i in range(2000)]
    assert [splits.count(name) / 2000 for name in ("train", "test")] == pytest.approx(
        [0.8, 0.1], abs=0.03
    )


def test_subset_is_a_shuffled_prefix_and_keeps_rows_together():
    examples = data.Examples(
        [str(i) for i in range(9)],
        [f"p{i}" for i in range(9)],
        np.arange(9, dtype=np.int32),
    )
    small, large, all_of_them = (data.subset(examples, rows) for rows in (3, 6, 100))
    assert (
        small.text == large.text[:3] == all_of_them.text[:3]
        and sorted(all_of_them.text) == examples.text
    )
    assert (
        small.text != examples.text[:3]
        and small.text != data.subset(examples, 3, seed=1).text
    )
    assert [str(i) for i in small.label] == small.text and small.pair == [
        f"p{i}" for i in small.text
    ]
    assert "at least 1 row in a subset, got 0" in message(data.subset, examples, 0)


# Rotten Tomatoes


def fake_wheel(frame):
    packed = bz2.compress(frame.to_csv(index=False).encode())
    return lambda requirement, sha256, member: packed


def test_rotten_tomatoes_drops_plots_and_splits_by_film(monkeypatch):
    rows = [
        (c, f" {c} {film} ", f"film {film}")
        for film in range(60)
        for c in ("fresh", "rotten", "plot")
    ]
    frame = pd.DataFrame(rows, columns=["category", "text", "movie_name"])
    monkeypatch.setattr(download, "read_member", fake_wheel(frame))
    task = data.load("rotten-tomatoes")
    seen = [
        {text.split()[1] for text in examples.text} for examples in task.splits.values()
    ]
    assert (
        list(task.splits) == ["train", "validation", "test"]
        and sum(map(len, seen)) == 60
    )
    examples = task.splits["train"]
    assert [task.labels[i] for i in examples.label] == [
        text.split()[0] for text in examples.text
    ]
    assert (
        all(text == text.strip() for text in examples.text)
        and examples.label.dtype == np.int32
    )


@pytest.mark.real
def test_rotten_tomatoes_has_its_rows():
    task = rotten_tomatoes.load()
    assert {name: len(examples.text) for name, examples in task.splits.items()} == {
        "train": 10390,
        "validation": 1404,
        "test": 1014,
    }
    assert sum(examples.label.sum() for examples in task.splits.values()) == 7403


# A user's own files

SPLIT = "text,label,split\nbad,neg,train\ngood,pos,train\nfine,pos,validation\n"


def test_csv_with_a_split_column(tmp_path):
    path = write(tmp_path / "mine.csv", SPLIT)
    task = data.load(path)
    assert (
        task.name == "mine"
        and task.labels == ("neg", "pos")
        and task.metrics == ("accuracy",)
    )
    assert list(task.splits) == ["train", "validation"] and task.splits[
        "train"
    ].text == ["bad", "good"]
    assert task.splits["train"].label.tolist() == [0, 1] and task.splits[
        "validation"
    ].label.tolist() == [1]
    assert (
        task.source
        == f"mine.csv sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    )


def test_formats_agree(tmp_path):
    rows = [
        (f"t{i}", f"p{i}", i % 2, split)
        for i, split in enumerate(["train"] * 4 + ["validation"] * 2)
    ]
    frame = pd.DataFrame(rows, columns=["text", "text_pair", "label", "split"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    first, *others = [
        data.load(tmp_path / f"a{suffix}") for suffix in read_table.FORMATS
    ]
    assert first.splits["train"].pair == ["p0", "p1", "p2", "p3"]
    for other in others:
        for name, examples in first.splits.items():
            np.testing.assert_equal(other.splits[name]._asdict(), examples._asdict())


def test_folder_of_splits(tmp_path):
    write(tmp_path / "train.tsv", 'text\tlabel\n"so called" art\t10\nfine\t9\n')
    write(tmp_path / "validation.jsonl", '{"text": "a\u2028b", "label": 9}\n')
    task = data.load(str(tmp_path))
    assert (
        task.labels == ("9", "10") and task.splits["train"].text[0] == '"so called" art'
    )
    assert (
        task.splits["validation"].text == ["a\u2028b"]
        and "validation.jsonl sha256:" in task.source
    )


def test_folder_without_validation_or_with_two(tmp_path):
    write(tmp_path / "train.csv", SPLIT)
    text = message(data.load, tmp_path, error=FileNotFoundError)
    assert "expected validation.* (.csv, .tsv, .jsonl, .parquet), got train.csv" in text
    write(tmp_path / "train.tsv", SPLIT)
    assert "expected one of train.csv, train.tsv, got them all" in message(
        data.load, tmp_path
    )


def test_split_by_hash_keeps_equal_texts_together(tmp_path):
    lines = [f"text {i % 50},{i % 2}" for i in range(100)]
    task = data.load(write(tmp_path / "a.csv", "\n".join(["text,label", *lines])))
    seen = [set(examples.text) for examples in task.splits.values()]
    assert len(seen) == 3 and sum(map(len, seen)) == 50


def test_numbers_with_a_point_are_regression(tmp_path):
    task = data.load(
        write(
            tmp_path / "a.csv",
            "text,label,split\na,1,train\nb,2.5,train\nc,3,validation\n",
        )
    )
    assert task.labels == () and task.metrics == ("pearson", "spearman")
    assert task.splits["train"].label.dtype == np.float32 and task.splits[
        "train"
    ].label.tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.csv",
            "text,lable\na,1\n",
            "a.csv: expected a column 'label', got text, lable (is 'lable' meant?)",
        ),
        (
            "a.csv",
            SPLIT + '" ",neg,train\n',
            "a.csv, line 5: text: expected some text, got ' '",
        ),
        (
            "a.csv",
            SPLIT + "x,nega,validation\n",
            "a.csv, line 5: label: expected one of neg, pos, got 'nega'",
        ),
        (
            "a.csv",
            SPLIT + "x,,train\n",
            "a.csv, line 5: label: expected one of neg, pos, got ''",
        ),
        (
            "a.csv",
            SPLIT + "x,nan,train\n",
            "a.csv, line 5: label: expected one of neg, pos, got 'nan'",
        ),
        (
            "a.csv",
            SPLIT + "x,3,train\n",
            "a.csv, line 5: label: expected a word like most others, got '3'",
        ),
        (
            "a.csv",
            SPLIT + "x,neg,dev\n",
            "line 5: split: expected one of train, validation, test, got 'dev'",
        ),
        (
            "a.csv",
            SPLIT + "x,neg\n",
            "line 5: split: expected one of train, validation, test, got None",
        ),
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
            SPLIT.replace("validation", "test"),
            "a.csv: no row is in the validation split",
        ),
        (
            "a.csv",
            SPLIT.replace("pos", "neg"),
            "expected 2 classes or more in the training split, got only 'neg'",
        ),
        (
            "a.csv",
            "text,text,label\na,b,1\n",
            "a.csv: the column 'text' is there more than once",
        ),
        (
            "a.csv",
            "text,label\na\nb\n",
            "a.csv, line 2: label: expected a number, got None",
        ),
        ("a.csv", "text,label\n", "a.csv: expected rows, got none"),
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
        (
            "a.jsonl",
            '{"text": 5, "label": 0.5}\n',
            "a.jsonl, line 1: text: expected some text, got 5",
        ),
        (
            "a.jsonl",
            '{"text": "\\ud83d", "label": 0.5}\n',
            "text: expected some text, got '\\ud83d'",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": NaN}\n',
            "a.jsonl, line 1: label: expected a number, got nan",
        ),
    ],
)
def test_bad_files_are_told_by_line(tmp_path, name, text, expected):
    assert expected in message(data.load, write(tmp_path / name, text))


def test_bad_rows_are_collected(tmp_path):
    path = write(
        tmp_path / "a.csv",
        SPLIT + ",neg,train\nx,what,validation\n" + ",pos,train\n" * 10,
    )
    text = message(data.load, path)
    assert text.startswith(
        "12 problems in the data:\n  a.csv, line 5: text:"
    ) and text.endswith("... and 7 more")
    assert len(text.splitlines()) == 7


def test_lines_count_past_line_breaks_in_quotes(tmp_path):
    path = write(
        tmp_path / "a.csv",
        'text,label,split\n"a\nb",x,train\n\nc,y,train\n,x,validation\n',
    )
    assert "a.csv, line 6: text" in message(data.load, path)


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(SPLIT.encode() + "café,pos,train\n".encode("latin-1"))
    assert (
        message(data.load, path)
        == "a.csv, line 5: expected UTF-8, got the byte 0xe9; save the file as UTF-8"
    )


def test_byte_order_mark_is_no_part_of_a_name(tmp_path):
    assert data.load(write(tmp_path / "a.csv", "\ufeff" + SPLIT)).labels == (
        "neg",
        "pos",
    )


def test_parquet_rows_count_from_1_and_absent_labels_leave_integers_whole(tmp_path):
    frame = pd.DataFrame(
        {"text": list("abcd"), "label": pd.array([0, 1, None, 1], "Int64")}
    )
    frame.assign(split=["train", "train", "train", "validation"]).to_parquet(
        tmp_path / "a.parquet"
    )
    assert "a.parquet, row 3: label: expected one of 0, 1, got None" in message(
        data.load, tmp_path / "a.parquet"
    )


def test_too_many_classes_hint_at_regression(tmp_path):
    lines = "".join(f"t{i},{i},train\n" for i in range(1001))
    text = message(data.load, write(tmp_path / "a.csv", "text,label,split\n" + lines))
    assert (
        "at most 1,000 classes, got 1,001; write scores with a decimal point (3.0) for regression"
        in text
    )


TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["yes", "no"])), min_size=1))
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_any_text_survives_a_file(tmp_path_factory, suffix, rows):
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    rows = [
        ("a", "b", "yes", "train"),
        ("a", "b", "no", "train"),
        *((*row, "validation") for row in rows),
    ]
    frame = pd.DataFrame(rows, columns=["text", "text_pair", "label", "split"])
    if suffix == ".jsonl":
        write(
            path,
            "".join(
                json.dumps(row, ensure_ascii=False) + "\n"
                for row in frame.to_dict("records")
            ),
        )
    elif suffix == ".csv":
        frame.to_csv(path, index=False, lineterminator="\n", quoting=1)
    else:
        frame.to_parquet(path)
    examples = data.load(path).splits["validation"]
    assert examples.pair and list(zip(examples.text, examples.pair, strict=True)) == [
        row[:2] for row in rows[2:]
    ]
