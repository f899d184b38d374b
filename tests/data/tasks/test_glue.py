import json

import numpy as np
import pytest

from lora_jax import data
from lora_jax.data.tasks import glue


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def message(call, *args, error: type[Exception] = ValueError, **keywords) -> str:
    with pytest.raises(error) as caught:
        call(*args, **keywords)
    return str(caught.value)


def glue_folder(folder, name, train, validation, suffix="tsv"):
    write(folder / f"train.{suffix}", train)
    write(folder / f"dev.{suffix}", validation)
    write(folder / f"test.{suffix}", "never read\n")
    return data.load(name, data_dir=folder)


def test_glue_pair_with_names_or_numbers_and_literal_quotes(tmp_path):
    head = "index\tsentence1\tsentence2\tlabel\n"
    task = glue_folder(
        tmp_path, "rte", head + '0\t"a\tb"\tnot_entailment\n', head + "0\tc\td\t0\n"
    )
    assert task.labels == ("entailment", "not_entailment") and list(task.splits) == [
        "train",
        "validation",
    ]
    np.testing.assert_equal(
        task.splits["train"], data.Examples(['"a'], ['b"'], np.array([1], np.int32))
    )
    assert task.splits["validation"].label.tolist() == [0]


def test_cola_has_no_header(tmp_path):
    task = glue_folder(
        tmp_path / "CoLA",
        "cola",
        "gj04\t1\t\tThey drank.\n",
        "gj04\t0\t*\tThey drank pub.\n",
    )
    assert task.splits["train"].text == ["They drank."] and task.splits[
        "validation"
    ].label.tolist() == [0]
    assert data.load("cola", data_dir=tmp_path).splits["train"].text == ["They drank."]


def test_official_headers(tmp_path):
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    task = glue_folder(
        tmp_path / "m", "mrpc", head + "1\t7\t8\tx\ty\n", head + "0\t7\t8\tx\ty\n"
    )
    np.testing.assert_equal(
        task.splits["train"], data.Examples(["x"], ["y"], np.array([1], np.int32))
    )
    assert task.metrics == ("accuracy", "f1")
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    task = glue_folder(
        tmp_path / "q",
        "qqp",
        head + "0\t1\t2\tx\ty\t1\n0\t1\tbroken off\n",
        head + "0\t1\t2\tx\t\t0\n",
    )
    assert task.splits["train"].text == ["x"] and task.splits["validation"].pair == [""]
    task = glue_folder(
        tmp_path / "s",
        "stsb",
        "sentence1\tsentence2\tscore\nx\ty\t3.8\n",
        "sentence1\tsentence2\tscore\nx\ty\t5\n",
    )
    assert task.labels == () and task.splits["train"].label.tolist() == [
        np.float32(3.8)
    ]


def test_mnli_has_both_validation_splits_in_either_layout(tmp_path):
    head, row = (
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n",
        "0\tp\th\tneutral\t",
    )
    labels = {
        "train": "entailment",
        "dev_matched": "neutral",
        "dev_mismatched": "contradiction",
    }
    for i, (name, label) in enumerate(labels.items()):
        write(tmp_path / "MNLI" / f"{name}.tsv", f"{head}{row}{label}\n")
        hub = json.dumps({"premise": "p", "hypothesis": "h", "label": i, "idx": 0})
        write(tmp_path / "hub" / f"{name.replace('dev', 'validation')}.jsonl", hub)
    for folder in (tmp_path, tmp_path / "hub"):
        splits = data.load("mnli", data_dir=folder).splits
        assert list(splits) == ["train", "validation", "validation_mismatched"]
        assert [examples.label.tolist() for examples in splits.values()] == [
            [0],
            [1],
            [2],
        ]
        assert splits["train"].text == ["p"] and splits["train"].pair == ["h"]


def test_glue_errors_name_the_file_and_the_line(tmp_path):
    head = "sentence\tlabel\n"
    text = message(
        glue_folder, tmp_path, "sst2", head + "good\t1\nbad\t-1\n", head + "\t0\n"
    )
    assert (
        "train.tsv, line 3: label: expected one of negative, positive, 0, 1, got '-1'"
        in text
    )
    assert "dev.tsv, line 2: sentence: expected some text, got ''" in text
    (tmp_path / "dev.tsv").unlink()
    text = message(data.load, "sst2", data_dir=tmp_path, error=FileNotFoundError)
    assert (
        "expected validation.* or dev.* (.csv, .tsv, .jsonl, .parquet), got test.tsv, train.tsv"
        in text
    )
    assert "does not exist" in message(
        data.load, "sst2", data_dir=tmp_path / "none", error=FileNotFoundError
    )


def test_hub_rows_become_the_same_examples(monkeypatch):
    import datasets

    rows = {
        "sentence1": ["a", "b"],
        "sentence2": ["c", ""],
        "label": [0, 1],
        "idx": [0, 1],
    }
    hub = {
        name: datasets.Dataset.from_dict(rows)
        for name in ("train", "validation", "test")
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name, revision: hub)
    task = data.load("rte")
    assert list(task.splits) == ["train", "validation"]
    np.testing.assert_equal(
        task.splits["train"],
        data.Examples(["a", "b"], ["c", ""], np.array([0, 1], np.int32)),
    )
    assert task.source == f"nyu-mll/glue@{glue.REVISION} rte"


def test_no_hub_says_to_pass_a_folder(monkeypatch):
    import datasets

    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    text = message(data.load, "mnli", error=ConnectionError)
    assert (
        "Couldn't reach" in text
        and "pass data_dir" in text
        and "mnli/dev_matched.tsv" in text
    )
