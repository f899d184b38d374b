"""Tasks with and without data, what the paper has of them, and WikiSQL's claims."""

import gpt3_tables
import pytest

from lora_jax import data
from lora_jax.data import official_files
from lora_jax.experiment.experiment import reference_folder
from lora_jax.experiment.identity import key
from lora_jax.results import claims

EXPERIMENT = gpt3_tables.EXPERIMENT
OPTIONS, QUICK = gpt3_tables.PRESETS["quick"]


def runs(options=OPTIONS, base=QUICK):
    return [item.runs[0] for item in gpt3_tables.measurements(options, base, None)]


@pytest.fixture
def _only_folders(monkeypatch):
    """Every task is looked for in the data folder, none on the hub."""

    def load(task, *, data_dir=None):
        return official_files.task_folder(task, data_dir, "its files")

    monkeypatch.setattr(data, "load", load)


def test_a_smoke_run_has_a_row_for_each_method(tmp_path):
    words = ["--preset", "smoke", "--methods", "none", "--new-tokens", "2"]
    EXPERIMENT.main([*words, "--out", str(tmp_path)])
    (row,) = EXPERIMENT.rows(tmp_path)
    assert row["config"]["data"] == "tiny-nlg"
    assert (tmp_path / "gpt3_tables" / "README.md").exists()


@pytest.mark.usefixtures("_only_folders")
def test_tasks_without_data_are_named_and_left_out(capsys):
    places = {(run.data.data, run.data.data_dir) for run in runs()}
    assert places == {("rotten-tomatoes-text", None)}
    text = capsys.readouterr().err
    assert "wikisql is left out: " in text
    assert "samsum is left out: " in text
    assert "Instead: rotten-tomatoes-text" in text


def test_a_folder_without_any_of_the_tasks_is_an_error(tmp_path):
    base = QUICK.changed(data_dir=str(tmp_path))
    message = r"has none of the tasks:\n  wikisql is left out: wikisql in .*: expected"
    with pytest.raises(ValueError, match=message):
        runs(base=base)


def test_a_task_that_was_asked_for_must_be_there(tmp_path):
    options = gpt3_tables.Options(tasks=("wikisql",))
    base = QUICK.changed(data_dir=str(tmp_path))
    message = r"wikisql in .*: expected .*, got nothing"
    with pytest.raises(FileNotFoundError, match=message):
        runs(options, base)


@pytest.mark.parametrize("flag", ["--tasks", "--data", "--task"])
def test_tasks_have_the_names_of_data_too(flag, tmp_path):
    words = ["--preset", "smoke", flag, "dart", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="dart is read from its official files"):
        EXPERIMENT.main(words)


def test_the_length_is_that_of_each_task(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda task, *, data_dir=None: None)
    lengths = {run.data.data: run.flat()["max_length"] for run in runs()}
    assert lengths == {"wikisql": 320, "mnli-text": 0, "samsum": 0}


def test_published_columns():
    _, wikisql = gpt3_tables.published("wikisql")
    assert list(wikisql.columns) == ["method", "trainable_params", "WikiSQL"]
    assert wikisql["WikiSQL"].iloc[0] == 73.8
    assert "SAMSum-RL" in gpt3_tables.published("samsum")[1]
    assert gpt3_tables.published("mine") == []


def test_claims_are_of_wikisql_alone():
    rows = EXPERIMENT.rows(reference_folder())
    full = [{**row, "config": {**row["config"], "method": "full"}} for row in rows[1:]]
    for row in full:
        row["key"] = key(row["config"])
    (claim,) = gpt3_tables.show([*rows, *full]).claims
    assert claim.statement == "LoRA's WikiSQL is above that of full fine-tuning"
    assert claim.verdict == claims.UNKNOWN_ERROR


@pytest.mark.usefixtures("_wikisql_is_there")
def test_the_reference_rows_are_those_of_the_quick_preset():
    rows = EXPERIMENT.rows(reference_folder())
    first = rows[0]["config"]
    base = QUICK.changed(
        compute=first["compute"],
        model_source=first["model_source"],
        data_source=first["data_source"],
    )
    keys = {key(run.flat()) for run in runs(OPTIONS, base)}
    assert {key(row["config"]) for row in rows} <= keys


@pytest.fixture
def _wikisql_is_there(monkeypatch):
    monkeypatch.setattr(data, "load", lambda task, *, data_dir=None: None)
