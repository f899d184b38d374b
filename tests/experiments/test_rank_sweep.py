"""The sweep's runs, and two settings in one folder."""

import pytest
import rank_sweep

EXPERIMENT = rank_sweep.EXPERIMENT
SMOKE = ["--preset", "smoke", "--ranks", "1", "--targets", "query"]


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
