"""Data that is there, and what is taken where it is not."""

import pytest

from lora_jax import data
from lora_jax.experiment import fallback, presets

SMOKE = presets.NLG_SMOKE


@pytest.fixture
def _no_hub(monkeypatch):
    def load(*names, **folders):
        raise ConnectionError("no hub")

    monkeypatch.setattr(data, "load", load)


@pytest.mark.usefixtures("_no_hub")
def test_where_e2e_is_missing_another_task_is_taken_and_named(capsys):
    assert fallback.available(presets.NLG).data.data == "rotten-tomatoes-text"
    text = capsys.readouterr().err
    assert text.startswith("no hub\nInstead: rotten-tomatoes-text, the opinion of")
    tiny = SMOKE.changed(data="e2e")
    assert fallback.available(tiny).data.data == "tiny-nlg"


@pytest.mark.usefixtures("_no_hub")
def test_what_was_named_is_taken():
    run = presets.NLG.changed(data_dir="folder")
    assert fallback.available(run) is run
    assert fallback.available(SMOKE) is SMOKE


def test_e2e_is_taken_where_it_is_there(monkeypatch):
    monkeypatch.setattr(data, "load", lambda task: None)
    assert fallback.available(presets.NLG) is presets.NLG


def test_data_with_labels_is_refused():
    message = "--data: sst2 has labels; --data sst2-text has them as words to be"
    with pytest.raises(ValueError, match=message):
        fallback.available(presets.NLG.changed(data="sst2"))


class TestTasks:
    @pytest.fixture(autouse=True)
    def _loader(self, monkeypatch):
        def load(task, *, data_dir=None):
            if task != "wikisql":
                raise FileNotFoundError(f"no files of {task}")

        monkeypatch.setattr(data, "load", load)

    def test_those_without_data_are_left_out(self, capsys):
        runs = fallback.runs_of_tasks(SMOKE, ("wikisql", "samsum"), required=False)
        assert [run.data.data for run in runs] == ["wikisql"]
        assert capsys.readouterr().err == ("samsum is left out: no files of samsum\n")

    def test_where_none_is_left_another_is_taken(self, capsys):
        runs = fallback.runs_of_tasks(SMOKE, ("samsum",), required=False)
        assert [run.data.data for run in runs] == ["tiny-nlg"]
        assert "Instead: tiny-nlg, made-up restaurants" in capsys.readouterr().err

    def test_a_required_task_must_be_there(self):
        with pytest.raises(FileNotFoundError, match="no files of samsum"):
            fallback.runs_of_tasks(SMOKE, ("wikisql", "samsum"), required=True)

    def test_a_folder_that_has_none_is_an_error_with_all_reasons(self):
        run = SMOKE.changed(data_dir="folder")
        with pytest.raises(ValueError) as error:
            fallback.runs_of_tasks(run, ("samsum", "dart"), required=False)
        assert str(error.value) == (
            "--data-dir folder has none of the tasks:\n"
            "  samsum is left out: no files of samsum\n"
            "  dart is left out: no files of dart"
        )

    def test_no_tasks_are_no_runs(self):
        assert fallback.runs_of_tasks(SMOKE, (), required=True) == []
