"""Tasks by name: what a name means, and what is said of one that means nothing."""

import pytest

from lora_jax import data
from lora_jax.data.tasks import glue
from lora_jax.metrics import METRICS
from tests.data.files import message, write


def test_unknown_task_lists_candidates_and_near_misses():
    text = message(data.load, "roten-tomatoes")
    assert "rotten-tomatoes, cola, sst2" in text
    assert "got 'roten-tomatoes'; is rotten-tomatoes meant?" in text
    text = message(data.load, "wikisq")
    assert "e2e, webnlg, dart, wikisql, samsum, tiny, tiny-nlg" in text
    assert "is wikisql meant?" in text


def test_what_looks_like_a_path_is_a_missing_file(tmp_path):
    for name in ("reviews.csv", "./reviews", tmp_path / "reviews"):
        text = message(data.load, name, error=FileNotFoundError)
        assert text == f"the data file {str(name)!r} does not exist"


def test_every_glue_metric_exists():
    metrics = set()
    for spec in glue.SPECS.values():
        metrics.update(spec.metrics)
    assert metrics <= set(METRICS)


def test_families_of_tasks():
    assert data.GLUE_TASKS == (
        "cola",
        "sst2",
        "mrpc",
        "qqp",
        "stsb",
        "mnli",
        "qnli",
        "rte",
        "wnli",
    )
    assert set(data.DATA_DIR_TASKS) | data.LABELED_TASKS < set(data.TASKS)
    assert not set(data.GENERATION_TASKS) & data.LABELED_TASKS


def test_data_dir_is_for_tasks_with_official_files(tmp_path):
    table = write(tmp_path / "a.csv", "source,target\na,b\n")
    for name in ("tiny", "tiny-text", table):
        text = message(data.load, name, data_dir=tmp_path)
        assert text.startswith("data_dir goes with cola, ")
        assert "has no official files" in text


def test_a_classification_as_text():
    task = data.load("tiny-text")
    classification = data.load("tiny")
    assert task.name == "tiny-text"
    assert task.generates
    assert task.splits["train"].text == classification.splits["train"].text
    words = [classification.labels[i] for i in classification.splits["train"].label]
    assert task.splits["train"].pair == words


@pytest.mark.parametrize("name", ["tiny-nlg-text", "e2e-text"])
def test_a_task_that_generates_is_no_classification(name, tmp_path, monkeypatch):
    monkeypatch.setitem(data.TASKS, "e2e", lambda data_dir: data.load("tiny-nlg"))
    assert "expected a task with classes" in message(data.load, name)


def test_base_name():
    assert data.base_name("mnli-text") == "mnli"
    assert data.base_name("mnli") == "mnli"
