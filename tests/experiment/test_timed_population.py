"""A sweep that is trained as one population, and timed."""

import pytest

from lora_jax.experiment import presets, timed_population
from lora_jax.experiment.timed_population import measure, population_settings
from lora_jax.experiment.workbench import Workbenches

SETTINGS = population_settings(presets.SMOKE, ["query", "query,value"], [1, 2], 1)


def test_all_cells_are_trained_on_the_pretrained_model_where_there_is_one():
    row = measure(SETTINGS)
    metrics = row["metrics"]
    assert metrics["population/cells"] == 2 * 2
    assert metrics["population/diverged"] == 0
    assert metrics["population/seconds"] > 0
    assert metrics["population/tokens_per_second"] > 0
    assert 0 <= metrics["test/accuracy"] <= 1
    assert row["weights"] == "pretrained"


def test_where_there_is_none_weights_and_texts_are_random(monkeypatch):
    def unreachable(self, run):
        raise OSError("no network")

    monkeypatch.setattr(Workbenches, "task", unreachable)
    settings = {**SETTINGS, "rows": 32, "validation_rows": 16, "sets": ["query"]}
    monkeypatch.setattr(timed_population, "TESTED", 16)
    row = measure({**settings, "seeds": 2, "ranks": [2]})
    assert row["weights"] == "random"
    assert row["metrics"]["population/cells"] == 2
    assert row["metrics"]["population/steps"] == 32 // settings["batch"]
    # Of random texts nothing is to be learned.
    assert "test/accuracy" not in row["metrics"]


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(self, run):
        raise ValueError("a broken file")

    monkeypatch.setattr(Workbenches, "task", broken)
    with pytest.raises(ValueError, match="a broken file"):
        measure(SETTINGS)


def test_the_settings_are_those_of_the_sweep():
    settings = population_settings(presets.QUICK, ("query",), (1, 2), 5)
    assert settings["model"] == "minilm-l6"
    assert (settings["rows"], settings["epochs"], settings["seeds"]) == (2000, 3, 5)
    runs = timed_population._runs(settings)
    assert {(run.options["rank"], run.seed) for run in runs} == {
        (rank, seed) for rank in (1, 2) for seed in range(5)
    }
