"""A user's own files: tables and folders, and what is said of bad ones."""

import hashlib

import numpy as np
import pytest

from lora_jax import data
from tests.data.files import json_lines, message, pairs, write

SPLIT = "text,label,split\nbad,neg,train\ngood,pos,train\nfine,pos,validation\n"


# Labels


def test_csv_with_a_split_column(tmp_path):
    path = write(tmp_path / "mine.csv", SPLIT)
    task = data.load(path)
    assert task.name == "mine"
    assert task.labels == ("neg", "pos")
    assert task.metrics == ("accuracy",)
    assert list(task.splits) == ["train", "validation"]
    assert task.splits["train"].text == ["bad", "good"]
    assert task.splits["train"].label.tolist() == [0, 1]
    assert task.splits["validation"].label.tolist() == [1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert task.source == f"mine.csv sha256:{digest}"


def test_folder_of_splits(tmp_path):
    write(tmp_path / "train.tsv", 'text\tlabel\n"so called" art\t10\nfine\t9\n')
    write(tmp_path / "validation.jsonl", '{"text": "a\u2028b", "label": 9}\n')
    task = data.load(str(tmp_path))
    assert task.labels == ("9", "10")
    assert task.splits["train"].text[0] == '"so called" art'
    assert task.splits["validation"].text == ["a\u2028b"]
    assert "validation.jsonl sha256:" in task.source


def test_folder_without_validation_or_with_two(tmp_path):
    write(tmp_path / "train.csv", SPLIT)
    text = message(data.load, tmp_path, error=FileNotFoundError)
    assert "expected validation.* (.csv, .tsv, .jsonl, .parquet), got train.csv" in text
    write(tmp_path / "train.tsv", SPLIT)
    text = message(data.load, tmp_path)
    assert "expected one of train.csv, train.tsv, got them all" in text


def test_split_by_hash_keeps_equal_texts_together(tmp_path):
    lines = [f"text {i % 50},{i % 2}" for i in range(100)]
    path = write(tmp_path / "a.csv", "\n".join(["text,label", *lines]))
    texts = [set(examples.text) for examples in data.load(path).splits.values()]
    assert len(texts) == 3
    assert sum(map(len, texts)) == 50


def test_numbers_with_a_point_are_regression(tmp_path):
    rows = "a,1,train\nb,2.5,train\nc,3,validation\n"
    task = data.load(write(tmp_path / "a.csv", "text,label,split\n" + rows))
    assert task.labels == ()
    assert task.metrics == ("pearson", "spearman")
    assert task.splits["train"].label.dtype == np.float32
    assert task.splits["train"].label.tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ('" ",neg,train\n', "line 5: text: expected some text, got ' '"),
        ("x,nega,validation\n", "line 5: label: expected one of neg, pos, got 'nega'"),
        ("x,,train\n", "line 5: label: expected one of neg, pos, got ''"),
        ("x,nan,train\n", "line 5: label: expected one of neg, pos, got 'nan'"),
        ("x,3,train\n", "line 5: label: expected a word like most others, got '3'"),
        (
            "x,neg,later\n",
            "line 5: split: expected one of train, validation, test, got 'later'",
        ),
        (
            "x,neg\n",
            "line 5: split: expected one of train, validation, test, got None",
        ),
    ],
)
def test_a_bad_row_is_told_by_line(tmp_path, rows, expected):
    text = message(data.load, write(tmp_path / "a.csv", SPLIT + rows))
    assert f"a.csv, {expected}" in text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.csv",
            "text,lable\na,1\n",
            "a.csv: expected a column 'label', got text, lable (is 'lable' meant?)",
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
            "a.jsonl",
            '{"text": 5, "label": 0.5, "split": "train"}\n',
            "a.jsonl, line 1: text: expected some text, got 5",
        ),
        (
            "a.jsonl",
            '{"text": "\\ud83d", "label": 0.5, "split": "train"}\n',
            "text: expected some text, got '\\ud83d'",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": NaN, "split": "train"}\n'
            '{"text": "x", "label": 0.5, "split": "train"}\n',
            "a.jsonl, line 1: label: expected a number, got nan",
        ),
    ],
)
def test_bad_tables_of_labels(tmp_path, name, content, expected):
    assert expected in message(data.load, write(tmp_path / name, content))


def test_bad_rows_are_collected(tmp_path):
    rows = ",neg,train\nx,what,validation\n" + ",pos,train\n" * 10
    text = message(data.load, write(tmp_path / "a.csv", SPLIT + rows))
    assert text.startswith("12 problems in the data:\n  a.csv, line 5: text:")
    assert text.endswith("... and 7 more")
    assert len(text.splitlines()) == 7


def rows(*labels):
    """Rows of a table with these labels, in turn: 60 different texts."""
    lines = []
    for number in range(60):
        lines.append(f"text {number},{labels[number % len(labels)]}\n")
    return "".join(lines)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("Text,LABEL\n" + rows(0, 1), ("0", "1")),
        (" TEXT , Label\n" + rows("no", "yes", "Yes", "yes"), ("no", "yes")),
        ("text,label\n" + rows(True, False), ("False", "True")),
        ("text,label\n" + rows("0.0", "1.0", "2.0"), ("0", "1", "2")),
        ("text,label\n" + rows(1, 2, 3, 4, 5), ("1", "2", "3", "4", "5")),
        ("text,label\n" + rows(1, 2.5, 3), ()),
    ],
)
def test_files_are_read_as_they_are_meant(tmp_path, content, labels):
    task = data.load(write(tmp_path / "a.csv", content))
    assert task.labels == labels
    assert task.metrics[0] == ("accuracy" if labels else "pearson")


def test_labels_of_another_spelling_are_the_same_class(tmp_path):
    content = SPLIT + "hm,NEG,train\nso,Pos,validation\n"
    task = data.load(write(tmp_path / "a.csv", content))
    assert task.splits["train"].label.tolist() == [0, 1, 0]
    assert task.splits["validation"].label.tolist() == [1, 1]


def test_two_columns_that_differ_in_case_alone(tmp_path):
    path = write(tmp_path / "a.csv", "Text,TEXT,label\na,b,c\n")
    text = message(data.load, path)
    assert "a.csv: expected one column 'text', got Text, TEXT" in text


def test_a_missing_column_can_be_named_by_a_flag(tmp_path):
    path = write(tmp_path / "a.csv", "sentence,label\nx,1\n")
    assert message(data.load, path).endswith(
        "expected a column 'text', got sentence, label; --text-column names the one "
        "that is meant"
    )


def test_columns_by_other_names(tmp_path):
    path = write(tmp_path / "a.csv", "Review,text,stars\n" + rows("x,1", "x,2"))
    columns = {"text": "review", "label": "stars"}
    task = data.load(path, columns=columns)
    assert task.labels == ("1", "2")
    assert task.splits["train"].text[0].startswith("text ")
    task = data.load(path, columns={"source": "review", "target": "stars"})
    assert task.generates
    text = message(data.load, path, columns={"text": "reveiw"})
    assert "expected a column 'reveiw', got Review, text, stars (is 'Review'" in text
    text = message(data.load, "tiny", columns=columns)
    assert text == "columns and label_kind go with your own file, not 'tiny'"


def test_scores_and_classes_can_be_asked_for(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + rows(1, 2, 3, 4, 5))
    task = data.load(path, label_kind="scores")
    assert task.labels == ()
    assert task.splits["train"].label.dtype == np.float32


def test_a_file_too_small_to_be_split_says_what_is_needed(tmp_path):
    path = write(tmp_path / "two.csv", "text,label\nbad,0\ngood,1\n")
    assert message(data.load, path) == (
        "two.csv: no row is in the validation and the test split, which a hash of the "
        "text draws: expected about 50 different texts or more, got 2; or a column "
        "'split' with train, validation or test in every row"
    )


def test_other_names_of_splits(tmp_path):
    content = "text,label,Split\na,0,Train\nb,1,train\nc,1,dev\nd,0,val\n"
    task = data.load(write(tmp_path / "a.csv", content))
    assert task.splits["validation"].text == ["c", "d"]
    for name in ("TRAIN.csv", "Dev.csv"):
        write(tmp_path / "folder" / name, "text,label\na,0\nb,1\n")
    assert list(data.load(tmp_path / "folder").splits) == ["train", "validation"]


def test_too_many_classes_hint_at_regression(tmp_path):
    rows = "".join(f"t{i},{i},train\n" for i in range(1001))
    text = message(data.load, write(tmp_path / "a.csv", "text,label,split\n" + rows))
    assert (
        "at most 1,000 classes, got 1,001; --label-kind scores makes them scores"
    ) in text


# Sources and targets


def test_a_table_of_sources_and_targets(tmp_path):
    rows = "a,1,x,train\nb,2,x,validation\na,3,x,train\n"
    path = write(tmp_path / "mine.csv", "source,target,label,split\n" + rows)
    task = data.load(path)
    assert task.name == "mine"
    assert task.labels == ()
    assert task.metrics == ("bleu", "rouge_l")
    assert task.generates
    assert pairs(task.splits["train"]) == [("a", "1"), ("a", "3")]
    assert task.source.startswith("mine.csv sha256:")


def test_a_column_source_alone_is_no_target(tmp_path):
    rows = "a,x,web,train\nb,y,web,train\na,x,web,validation\n"
    path = write(tmp_path / "b.csv", "text,label,source,split\n" + rows)
    assert not data.load(path).generates


def test_equal_sources_stay_together(tmp_path):
    rows = [{"source": f"s{i % 40}", "target": f"t{i}"} for i in range(200)]
    path = write(tmp_path / "a.jsonl", json_lines(*rows))
    sources = [set(examples.text) for examples in data.load(path).splits.values()]
    assert len(sources) == 3
    assert sum(map(len, sources)) == 40


def test_a_folder_of_sources_and_targets(tmp_path):
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.tsv", 'source\ttarget\nhe said "a"\tb\n')
    task = data.load(tmp_path)
    assert task.generates
    assert pairs(task.splits["validation"]) == [('he said "a"', "b")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "source,targets\na,b\n",
            "a.csv: expected a column 'target', got source, targets "
            "(is 'targets' meant?)",
        ),
        (
            "text,label,source,target\na,b,c,d\n",
            "a.csv: expected either the columns text and label, or source and target",
        ),
        (
            "question,sql\na,b\n",
            "or source and target for a task that generates, got question, sql",
        ),
        ("text,target\na,b\n", "a.csv: expected a column 'label', got text, target"),
        (
            "source,target,split\na,,train\na,b,validation\n",
            "a.csv, line 2: target: expected some text, got ''",
        ),
        (
            "source,target,split\na,b,train\n",
            "a.csv: no row is in the validation split",
        ),
    ],
)
def test_bad_tables_of_targets(tmp_path, content, expected):
    assert expected in message(data.load, write(tmp_path / "a.csv", content))
