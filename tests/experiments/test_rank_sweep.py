"""The sweep's runs, and two settings in one folder."""

from dataclasses import replace

import pytest
import rank_sweep

from lora_jax.experiment import Workbenches, presets

EXPERIMENT = rank_sweep.EXPERIMENT
SMOKE = ["--preset", "smoke", "--ranks", "1", "--targets", "query", "--no-baseline"]


def runs(preset):
    items = rank_sweep.measurements(*rank_sweep.PRESETS[preset], None)
    return [item.runs[0] for item in items]


def test_the_paper_preset_has_the_values_of_table_9():
    sweep = runs("paper")
    assert {(run.data.data, run.train.epochs) for run in sweep} == {
        ("mnli", 30),
        ("sst2", 60),
    }
    for run in sweep:
        settings = run.flat()
        assert settings["batch"] == 16
        assert settings["alpha"] == 8
        assert settings["learning_rate"] == 5e-4


def test_a_task_that_table_9_lacks_is_refused():
    options, base = rank_sweep.PRESETS["paper"]
    options = rank_sweep.Options(tasks=("rotten-tomatoes",))
    message = r"Table 9.* mnli, sst2.*rotten-tomatoes"
    with pytest.raises(ValueError, match=message):
        rank_sweep.measurements(options, base, None)


def test_two_settings_in_one_folder_are_told_apart_where_they_are_drawn(tmp_path):
    for rate in ("0.01", "0.02"):
        EXPERIMENT.main([*SMOKE, "--lr", rate, "--no-keep", "--out", str(tmp_path)])
    page = (tmp_path / "rank_sweep" / "README.md").read_text()
    table = (tmp_path / "rank_sweep" / "table.csv").read_text()
    for rate in ("0.01", "0.02"):
        assert f"learning_rate {rate}\n" in page
        assert f"learning_rate {rate}" in table


def test_ranks_replace_the_option_of_a_single_run(capsys):
    with pytest.raises(SystemExit):
        EXPERIMENT.main(["--preset", "smoke", "--rank", "2"])
    assert "--ranks" in capsys.readouterr().err


class TestLearningRate:
    def test_auto_is_three_rates_around_the_presets(self):
        options, base = rank_sweep.PRESETS["paper"]
        options = replace(options, learning_rate="auto", seeds=(0,), tasks=("sst2",))
        items = rank_sweep.measurements(options, base, None)
        rates = [item.runs[0].train.learning_rate for item in items[:3]]
        assert rates == [2.5e-4, 5e-4, 2.5e-3]
        assert len(items) == 3 * 3 * 5
        # One rate may be too high: that is a result.
        assert all(item.may_diverge for item in items)

    def test_the_head_is_trained_at_the_same_rates(self):
        options, base = rank_sweep.PRESETS["smoke"]
        items = rank_sweep.measurements(options, base, Workbenches())
        (head,) = [item.runs[0] for item in items if item.runs[0].method == "head"]
        assert head.train.learning_rate == base.train.learning_rate
        assert not items[0].may_diverge

    def test_a_text_to_be_written_has_no_head(self):
        options, _ = rank_sweep.PRESETS["smoke"]
        base = presets.NLG_SMOKE.changed(targets="query")
        items = rank_sweep.measurements(options, base, Workbenches())
        assert {item.runs[0].method for item in items} == {"lora"}

    @pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan"])
    def test_one_that_is_no_rate_is_refused(self, rate, tmp_path):
        message = "learning_rate: expected a number above 0, or auto, got"
        with pytest.raises(ValueError, match=message):
            EXPERIMENT.main([*SMOKE, f"--lr={rate}", "--out", str(tmp_path)])

    def test_auto_is_resumed_and_the_page_has_the_chosen_rate(self, tmp_path, capsys):
        words = [*SMOKE, "--learning-rate", "auto", "--out", str(tmp_path)]
        EXPERIMENT.main(words)
        page = (tmp_path / "rank_sweep" / "README.md").read_text()
        assert "best learning_rate of 0.0005, 0.001, 0.005" in page
        assert "Learning rate of each line:" in page
        capsys.readouterr()
        EXPERIMENT.main([*words, "--dry-run"])
        assert "3 rows, 3 of them there already" in capsys.readouterr().out
