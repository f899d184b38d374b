"""The sweep's runs, its page, and what is refused before anything is trained."""

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


def test_a_dry_run_trains_nothing(tmp_path, capsys):
    words = ["--preset", "smoke", "--out", str(tmp_path), "--dry-run"]
    EXPERIMENT.main(words)
    text = capsys.readouterr().out
    assert "6 rows, 0 of them there already" in text
    assert "to do             64        34  targets=query rank=1" in text
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_has_no_row(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1 runs diverged and have no row"):
        EXPERIMENT.main([*SMOKE, "--lr", "1e30", "--out", str(tmp_path)])
    assert "learning rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--ranks", "17"], "rank: expected 1 <= rank <= 16"),
        (["--targets", "qeury"], "'qeury' matches no layer"),
        (["--targets", "qeury"], "there are: blocks/attention/query"),
        (["--learning-rate", "-1"], "learning_rate: expected > 0, got -1"),
        (["--data", "rotten-tomatos"], "is rotten-tomatoes meant?"),
        (["--data", "no.csv"], "the data file 'no.csv' does not exist"),
        (["--model", "minilm"], "'minilm'"),
        (["--model", "./nowhere"], "no directory './nowhere'"),
        (["--method", "loar"], "method: expected one of lora"),
        (["--max-length", "65"], "positions for 64 tokens, got 65"),
        (["--rows", "-5"], "rows: expected 0 or more (0 is all), got -5"),
        (["--glue-dir", "here"], "glue_dir: goes with cola, "),
        (
            ["--data", "rte", "--glue-dir", "here", "--data-dir", "there"],
            "data_dir and glue_dir mean the same: expected one of them",
        ),
        (["--targets"], "expected at least one value"),
        (["--preset", "quik"], "--preset: expected one of smoke, quick, full, paper"),
    ],
)
def test_a_bad_setting_is_found_before_anything_is_trained(
    flags, text, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ValueError, OSError)) as error:
        EXPERIMENT.main(["--preset", "smoke", "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_mistyped_flag_ends_with_what_was_meant(capsys):
    with pytest.raises(SystemExit):
        EXPERIMENT.main(["--preset", "smoke", "--rank", "2"])
    assert "--ranks" in capsys.readouterr().err
