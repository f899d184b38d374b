"""GLUE: the official archive's files, the hub's, and both their columns."""

import json
import zipfile

import datasets
import numpy as np

from lora_jax import data
from lora_jax.data.tasks import glue
from tests.data.files import message, write


def glue_folder(folder, name, train, validation):
    """The task of a folder with these two files."""
    write(folder / "train.tsv", train)
    write(folder / "dev.tsv", validation)
    write(folder / "test.tsv", "never read\n")
    return data.load(name, data_dir=folder)


def labels(task, split):
    return task.splits[split].label.tolist()


def test_a_pair_with_names_or_numbers_and_literal_quotes(tmp_path):
    head = "index\tsentence1\tsentence2\tlabel\n"
    train = head + '0\t"a\tb"\tnot_entailment\n'
    task = glue_folder(tmp_path, "rte", train, head + "0\tc\td\t0\n")
    assert task.labels == ("entailment", "not_entailment")
    assert list(task.splits) == ["train", "validation"]
    expected = data.Examples(['"a'], ['b"'], np.array([1], np.int32))
    np.testing.assert_equal(task.splits["train"], expected)
    assert labels(task, "validation") == [0]


def test_cola_has_no_header(tmp_path):
    train = "gj04\t1\t\tThey drank.\n"
    validation = "gj04\t0\t*\tThey drank pub.\n"
    task = glue_folder(tmp_path / "CoLA", "cola", train, validation)
    assert task.splits["train"].text == ["They drank."]
    assert labels(task, "validation") == [0]
    outer = data.load("cola", data_dir=tmp_path)
    assert outer.splits["train"].text == ["They drank."]


def test_columns_of_the_official_mrpc(tmp_path):
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    train = head + "1\t7\t8\tx\ty\n"
    task = glue_folder(tmp_path, "mrpc", train, head + "0\t7\t8\tx\ty\n")
    expected = data.Examples(["x"], ["y"], np.array([1], np.int32))
    np.testing.assert_equal(task.splits["train"], expected)
    assert task.metrics == ("accuracy", "f1")


def test_lines_without_a_label_are_told(tmp_path):
    head = "index\tsentence1\tsentence2\tlabel\n"
    train = head + "0\ta\tb\tentailment\n1\ta\tb\n2\ta\tb\t\n"
    text = message(glue_folder, tmp_path, "rte", train, head + "0\tc\td\t0\n")
    expected = "label: expected one of entailment, not_entailment, 0, 1, got"
    assert f"train.tsv, line 3: {expected} None" in text
    assert f"train.tsv, line 4: {expected} ''" in text


def test_cola_of_its_authors(tmp_path):
    folder = tmp_path / "cola_public/raw"
    write(folder / "in_domain_train.tsv", "gj04\t1\t\tThey drank.\n")
    write(folder / "in_domain_dev.tsv", "gj04\t0\t*\tThey drank pub.\n")
    write(folder / "out_of_domain_dev.tsv", "clc95\t1\t\tSome did.\n")
    task = data.load("cola", data_dir=tmp_path)
    assert list(task.splits) == ["train", "validation"]
    assert task.splits["validation"].text == ["They drank pub.", "Some did."]
    assert labels(task, "validation") == [0, 1]
    (folder / "in_domain_dev.tsv").unlink()
    text = message(data.load, "cola", data_dir=tmp_path, error=FileNotFoundError)
    assert (
        "expected train.*; validation.* or dev.*, or in_domain_train.*; "
        "in_domain_dev.*; out_of_domain_dev.* (.csv"
    ) in text
    assert "got in_domain_train.tsv, out_of_domain_dev.tsv" in text


def test_stsb_of_its_authors(tmp_path):
    row = 'main-news\theadlines\t2013\t0001\t2.6\tHe said "no\tHe did'
    write(tmp_path / "stsbenchmark/sts-train.csv", f"{row}\n{row}\tlicense\turl\n")
    write(tmp_path / "stsbenchmark/sts-dev.csv", f"{row}\n")
    task = data.load("stsb", data_dir=tmp_path)
    assert task.splits["train"].text == ['He said "no'] * 2
    assert task.splits["validation"].pair == ["He did"]
    assert labels(task, "train") == [np.float32(2.6)] * 2


def test_names_in_another_case_and_an_archive(tmp_path):
    head = "Sentence\tLabel\n"
    write(tmp_path / "sst-2/TRAIN.tsv", head + "good\t1\n")
    write(tmp_path / "sst-2/Dev.TSV", head + "bad\tNegative\n")
    task = data.load("sst2", data_dir=tmp_path)
    assert labels(task, "validation") == [0]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted((tmp_path / "sst-2").iterdir()):
            archive.write(file, f"SST-2/{file.name}")
    np.testing.assert_equal(data.load("sst2", data_dir=tmp_path / "a.zip"), task)


def test_rows_of_the_official_qqp_that_break_off_are_left_out(tmp_path):
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    train = head + "0\t1\t2\tx\ty\t1\n0\t1\tbroken off\n"
    task = glue_folder(tmp_path, "qqp", train, head + "0\t1\t2\tx\t\t0\n")
    assert task.splits["train"].text == ["x"]
    assert task.splits["validation"].pair == [""]
    assert task.notes == ("train.tsv: 1 of 2 entries are left out, which break off",)
    broken = train + "0\t1\tbroken off\n" * 100
    text = message(glue_folder, tmp_path, "qqp", broken, head + "0\t1\t2\tx\ty\t0\n")
    assert "train.tsv, line 3: question1: expected some text, got None" in text


def test_stsb_is_regression(tmp_path):
    head = "sentence1\tsentence2\tscore\n"
    task = glue_folder(tmp_path, "stsb", head + "x\ty\t3.8\n", head + "x\ty\t5\n")
    assert task.labels == ()
    assert labels(task, "train") == [np.float32(3.8)]


def test_scores_of_stsb_are_from_0_to_5(tmp_path):
    head = "sentence1\tsentence2\tscore\n"
    dev = head + "x\ty\t0\nx\ty\t-0.1\n"
    text = message(glue_folder, tmp_path, "stsb", head + "x\ty\t7.5\n", dev)
    assert "train.tsv, line 2: label: expected a score from 0 to 5, got '7.5'" in text
    assert "dev.tsv, line 3: label: expected a score from 0 to 5, got '-0.1'" in text


def test_mnli_has_both_validation_splits_in_either_layout(tmp_path):
    head = "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
    label_of_file = {
        "train": "entailment",
        "dev_matched": "neutral",
        "dev_mismatched": "contradiction",
    }
    for index, (name, label) in enumerate(label_of_file.items()):
        row = f"0\tp\th\tneutral\t{label}\n"
        write(tmp_path / "MNLI" / f"{name}.tsv", head + row)
        hub_name = name.replace("dev", "validation")
        hub_row = {"premise": "p", "hypothesis": "h", "label": index, "idx": 0}
        write(tmp_path / "hub" / f"{hub_name}.jsonl", json.dumps(hub_row))
    for folder in (tmp_path, tmp_path / "hub"):
        task = data.load("mnli", data_dir=folder)
        assert list(task.splits) == ["train", "validation", "validation_mismatched"]
        assert [labels(task, split) for split in task.splits] == [[0], [1], [2]]
        assert task.splits["train"].text == ["p"]
        assert task.splits["train"].pair == ["h"]


def test_misfits_are_told_by_file_and_line(tmp_path):
    head = "sentence\tlabel\n"
    train = head + "good\t1\nbad\t-1\n"
    text = message(glue_folder, tmp_path, "sst2", train, head + "\t0\n")
    assert (
        "train.tsv, line 3: label: expected one of negative, positive, 0, 1, got '-1'"
    ) in text
    assert "dev.tsv, line 2: sentence: expected some text, got ''" in text


def test_missing_files_are_named(tmp_path):
    write(tmp_path / "train.tsv", "")
    write(tmp_path / "test.tsv", "")
    text = message(data.load, "sst2", data_dir=tmp_path, error=FileNotFoundError)
    assert (
        "expected train.*; validation.* or dev.* (.csv, .tsv, .jsonl, .parquet), "
        "got test.tsv, train.tsv"
    ) in text
    nowhere = tmp_path / "none"
    text = message(data.load, "sst2", data_dir=nowhere, error=FileNotFoundError)
    assert "does not exist" in text


def test_hub_rows_become_the_same_examples(monkeypatch):
    rows = {
        "sentence1": ["a", "b"],
        "sentence2": ["c", ""],
        "label": [0, 1],
        "idx": [0, 1],
    }
    hub = {}
    for name in ("train", "validation", "test"):
        hub[name] = datasets.Dataset.from_dict(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name, revision: hub)
    task = data.load("rte")
    assert list(task.splits) == ["train", "validation"]
    expected = data.Examples(["a", "b"], ["c", ""], np.array([0, 1], np.int32))
    np.testing.assert_equal(task.splits["train"], expected)
    assert task.source == f"nyu-mll/glue@{glue.REVISION} rte"


def test_without_the_hub_the_error_asks_for_a_folder(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    text = message(data.load, "mnli", error=ConnectionError)
    assert "Couldn't reach" in text
    assert "pass data_dir" in text
    assert "mnli/dev_matched.tsv" in text
