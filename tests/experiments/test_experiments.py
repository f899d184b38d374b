"""Every experiment's smoke preset end to end; the rank sweep killed, resumed, shared, and given bad flags."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module as script
from pathlib import Path

import pytest

from lora_jax import results
from lora_jax.experiment import schedule

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "report")


def run(*arguments, **options):
    command = [
        sys.executable,
        str(FOLDER / "rank_sweep.py"),
        "--preset",
        "smoke",
        *map(str, arguments),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, **options
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_smoke(name, tmp_path, capsys):
    main = script(name).main
    main(["--preset", "smoke", "--out", str(tmp_path)])
    drawn = (tmp_path / f"{name}.md").read_bytes()
    rows = results.read(tmp_path / f"{name}.jsonl")
    assert rows and all(row["provenance"]["versions"]["jax"] for row in rows)
    main(
        ["--preset", "smoke", "--out", str(tmp_path)]
    )  # nothing is missing: nothing is made anew, the same is drawn
    assert (tmp_path / f"{name}.md").read_bytes() == drawn
    assert results.read(tmp_path / f"{name}.jsonl") == rows


def test_the_report_has_every_experiment_with_rows_and_counts_its_verdicts(
    tmp_path, capsys
):
    for name in ("trainable_params", "rank_sweep"):
        script(name).main(["--preset", "smoke", "--out", str(tmp_path)])
    report = script("report").main
    report(["--out", str(tmp_path)])
    page = (tmp_path / "README.md").read_text()
    assert (
        "\n## rank sweep\n" in page
        and "\n## trainable params\n" in page
        and "throughput" not in page
    )
    equal = sum(
        row["verdict"] == "equal"
        for row in results.read(tmp_path / "trainable_params.jsonl")
    )
    counts = next(line.split("|") for line in page.splitlines() if "| equal " in line)
    fitted = 2  # of Table 2, the two AdapterD
    assert [cell.strip() for cell in counts[4:6]] == ["0", str(equal - fitted)]
    (tmp_path / "rank_sweep.md").unlink()
    report(["--out", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == page, "made from rows alone"


def test_a_report_of_nothing_says_what_it_needs(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"--out: expected a folder with rows of an experiment \(\*.jsonl\), got",
    ):
        script("report").main(["--out", str(tmp_path)])


def test_the_paper_preset_has_the_values_of_table_9():
    sweep = script("rank_sweep")
    cells = sweep.cells(sweep.PRESETS["paper"])
    assert {(cell["data"], cell["epochs"]) for cell in cells} == {
        ("mnli", 30),
        ("sst2", 60),
    }
    assert all(
        (cell["batch"], cell["alpha"], cell["learning_rate"]) == (16, 8, 5e-4)
        for cell in cells
    )
    with pytest.raises(
        ValueError, match=r"Table 9's, which has mnli, sst2.* but not 'rotten-tomatoes'"
    ):
        sweep.table9_epochs("rotten-tomatoes")


def test_killed_and_started_again_it_draws_the_same_bytes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [
        sys.executable,
        str(FOLDER / "rank_sweep.py"),
        "--preset",
        "smoke",
        "--out",
        str(broken),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = broken / "rank_sweep.jsonl"
    while process.poll() is None and not (rows.exists() and results.read(rows)):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = results.read(rows)
    assert 1 <= len(done) < 6
    again = run("--out", broken)
    assert again.returncode == 0 and f"6 cells, {len(done)} of them in" in again.stdout
    assert run("--out", whole).returncode == 0
    for suffix in (".md", ".csv", ".png"):
        assert (broken / f"rank_sweep{suffix}").read_bytes() == (
            whole / f"rank_sweep{suffix}"
        ).read_bytes()
    assert results.read(rows)[: len(done)] == done


def test_two_processes_share_the_cells(tmp_path):
    command = [
        sys.executable,
        str(FOLDER / "rank_sweep.py"),
        "--preset",
        "smoke",
        "--out",
        str(tmp_path),
    ]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    lines = (tmp_path / "rank_sweep.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 6


def test_a_pipe_that_nobody_reads_is_no_error_of_the_user(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        str(FOLDER / "rank_sweep.py"),
        "--preset",
        "smoke",
        "--dry-run",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--ranks", "17"], "rank: expected 1 <= rank <= 16"),
        (
            ["--targets", "qeury"],
            "'qeury' matches no layer; there are: blocks/attention/query",
        ),
        (["--learning-rate", "-1"], "learning_rate: expected > 0, got -1"),
        (["--data", "rotten-tomatos"], "is rotten-tomatoes meant?"),
        (["--data", "no.csv"], "the data file 'no.csv' does not exist"),
        (["--model", "minilm"], "'minilm'"),
        (["--model", "./nowhere"], "no directory './nowhere'"),
        (["--method", "loar"], "method: expected one of lora"),
        (["--max-length", "65"], "positions for 64 tokens, got 65"),
        (
            ["--rows", "-5", "--epochs", "-1"],
            "rows: expected 0 or more (0 is all), got -5; epochs: expected >= 1, got -1",
        ),
        (["--glue-dir", "here"], "glue_dir: goes with cola, "),
        (
            ["--data", "rte", "--glue-dir", "here", "--data-dir", "there"],
            "data_dir and glue_dir mean the same: expected one of them",
        ),
        (["--targets"], "no cells: expected at least one value"),
        (
            ["--init", "uniform"],
            "init: expected one of gaussian, kaiming_uniform, got 'uniform'",
        ),
    ],
)
def test_a_bad_setting_is_found_before_anything_is_trained(
    flags, text, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    main = script("rank_sweep").main
    with pytest.raises((ValueError, OSError)) as error:
        main(["--preset", "smoke", "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize(
    ("name", "flags", "text"),
    [
        (
            "weight_selection",
            ["--method", "full"],
            "method: expected one with a rank to choose, as lora, got full",
        ),
        (
            "weight_selection",
            ["--budget", "10000000"],
            "budget: 10,000,000 is more than the matrices can hold",
        ),
        (
            "weight_selection",
            ["--budget", "10"],
            "budget: expected at least what r = 1 costs (64 for query",
        ),
        (
            "subspace_similarity",
            ["--targets", "query|pooler"],
            "matrices that every block has, got also pooler",
        ),
        (
            "amplification",
            ["--targets", "query|pooler"],
            "matrices that every block has, got also pooler",
        ),
        ("svd_truncation", ["--method", "full"], "method: expected lora"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(name, flags, text, tmp_path):
    with pytest.raises(ValueError) as error:
        script(name).main(["--preset", "smoke", "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_mistyped_flag_or_preset_ends_with_what_was_meant(tmp_path, capsys):
    main = script("rank_sweep").main
    with pytest.raises(
        SystemExit,
        match="error: --preset: expected one of smoke, quick, full, paper, got 'quik'",
    ):
        main(["--preset", "quik"])
    with pytest.raises(SystemExit):
        main(["--preset", "smoke", "--rank", "2"])
    assert "--ranks" in capsys.readouterr().err


def test_a_dry_run_trains_nothing(tmp_path, capsys):
    script("rank_sweep").main(
        ["--preset", "smoke", "--out", str(tmp_path), "--dry-run"]
    )
    said = capsys.readouterr().out
    assert (
        "64        34  tiny query r=1 seed=0" in said
        and "for 6 cells on this machine" in said
    )
    assert not list(tmp_path.iterdir())


def test_a_diverged_cell_has_no_row_and_the_others_go_on(tmp_path, capsys):
    with pytest.raises(SystemExit, match="cells diverged and have no row"):
        script("rank_sweep").main(
            [
                "--preset",
                "smoke",
                "--out",
                str(tmp_path),
                "--learning-rate",
                "1e30",
                "--targets",
                "query",
                "--ranks",
                "1",
            ]
        )
    assert "learning rate" in capsys.readouterr().out


def test_groups_are_alike_in_all_but_the_named_settings():
    rows = [
        {"config": {"a": a, "seed": seed}, "metrics": {}}
        for a, seed in ((1, 0), (2, 0), (2, 1))
    ]
    assert schedule.groups(rows, but=("seed",)) == [rows[1:], rows[:1]]


def test_groups_are_told_apart_by_the_settings_in_which_they_differ():
    rows = [
        {"config": {"a": a, "b": 1, "rank": rank, "model": f"m{a}"}, "metrics": {}}
        for a in (1, 2)
        for rank in (1, 2)
    ]
    groups = schedule.groups(rows, but=("rank",))
    assert sorted(schedule.apart(groups)) == [", a 1", ", a 2"]
    assert schedule.apart(groups[:1]) == [""]


def test_two_settings_in_one_folder_are_told_apart_where_they_are_drawn(
    tmp_path, capsys
):
    for rate in ("0.01", "0.02"):
        flags = ["--learning-rate", rate, "--ranks", "1", "--targets", "query"]
        script("rank_sweep").main(["--preset", "smoke", "--out", str(tmp_path), *flags])
    text, table = (
        (tmp_path / "rank_sweep.md").read_text(),
        (tmp_path / "rank_sweep.csv").read_text(),
    )
    for rate in ("0.01", "0.02"):
        assert (
            f"## tiny, tiny, learning_rate {rate}\n" in text
            and f",learning_rate {rate}\n" in table
        )


def test_the_metric_to_show_is_of_the_test_split_if_there_is_one():
    assert (
        schedule.primary({"metrics": {"validation/f1": 1.0, "test/f1": 0.5}})
        == "test/f1"
    )
    assert (
        schedule.primary(
            {
                "metrics": {
                    "validation/accuracy": 1.0,
                    "validation_mismatched/accuracy": 0.5,
                }
            }
        )
        == "validation/accuracy"
    )
