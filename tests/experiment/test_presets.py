"""Presets are runs that pass the checks, with the papers' values where they say so."""

import pytest

from lora_jax.experiment import check, presets

BY_NAME = {
    "quick": presets.QUICK,
    "smoke": presets.SMOKE,
    "full": presets.FULL,
    "nlg": presets.NLG,
    "nlg_smoke": presets.NLG_SMOKE,
    "nlg_full": presets.NLG_FULL,
    "nlg_paper": presets.NLG_PAPER,
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_preset_can_be_run(name):
    check.check_settings([BY_NAME[name]])


def test_the_paper_preset_waits_for_the_tasks_epochs():
    with pytest.raises(ValueError, match="epochs: expected >= 1, got 0"):
        check.check_settings([presets.PAPER])
    check.check_settings([presets.PAPER.changed(epochs=30)])


@pytest.mark.parametrize(
    ("small", "full"),
    [(presets.QUICK, presets.FULL), (presets.NLG, presets.NLG_FULL)],
)
def test_a_full_one_has_all_rows_of_the_same_task_and_model(small, full):
    assert full.data == small.changed(rows=0, validation_rows=0, test_sources=0).data
    assert full.model == small.model
    assert full.quantize == small.quantize


def test_the_papers_encoder_has_the_values_of_table_9():
    settings = presets.PAPER.flat()
    assert settings["model"] == "roberta-base"
    assert settings["batch"] == 16
    assert settings["learning_rate"] == 5e-4
    assert settings["warmup"] == 0.06
    assert settings["max_length"] == 512
    # r_q = r_v = 8, alpha = 8
    assert settings["targets"] == "query,value"
    assert settings["rank"] == 8
    assert settings["alpha"] == 8.0


def test_the_papers_language_model_has_the_values_of_table_11():
    settings = presets.NLG_PAPER.flat()
    assert settings["model"] == "gpt2-medium"
    assert settings["batch"] == 8
    assert settings["epochs"] == 5
    assert settings["learning_rate"] == 2e-4
    assert settings["weight_decay"] == 0.01
    assert settings["dropout"] == 0.1
    assert settings["label_smoothing"] == 0.1
    assert settings["rank"] == 4
    assert settings["alpha"] == 32.0
    assert settings["beam"] == 10
    assert settings["length_penalty"] == 0.9
    assert settings["no_repeat"] == 4
    # The authors count what is written, not the prompt.
    assert settings["no_repeat_within"] == "text"
    # 500 steps of E2E's 42,061 rows, 5 times in batches of 8.
    assert settings["warmup"] == pytest.approx(500 / 26_290, abs=5e-4)


@pytest.mark.parametrize("name", ["smoke", "nlg_smoke"])
def test_a_smoke_run_needs_nothing_of_the_network(benches, name):
    (run,) = check.resolved([BY_NAME[name]], benches)
    assert run.model_source == "random weights"
    assert run.data_source == "made up, seed 0"
    assert set(benches.bench(run).task.splits) == {"train", "validation", "test"}
