"""What a study says when things go wrong, what it keeps, how long it thinks it will take, what its display shows."""

import errno
import io
import math
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from lora_jax import methods, results, train, tree
from lora_jax.experiment import run, schedule
from lora_jax.experiment.progress import Display, clock

CELL = {
    **asdict(replace(run.SMOKE, compute="float32")),
    "targets": "query",
    "rank": 1,
    "seed": 0,
}


def label(cell):
    return f"r={cell['rank']}"


def nothing(rows, out):
    return []


class TestKept:
    def test_an_analysis_takes_what_a_study_kept_and_trains_only_what_is_missing(
        self, tmp_path, capsys
    ):
        schedule.run("sweep", tmp_path, [CELL], label, nothing, keep=True)
        (row,) = results.read(tmp_path / "sweep.jsonl")
        capsys.readouterr()
        cells = schedule.resolved([CELL, {**CELL, "seed": 1}])
        assert schedule.untrained(tmp_path, [*cells, *cells]) == cells[1:]
        first, second, again = schedule.trained(tmp_path, [*cells, cells[1]], label)
        said = capsys.readouterr().out
        assert said.count("begins") == 1, (
            "a cell that is asked for twice is trained once"
        )
        assert again.row == second.row
        assert first.row == row and second.row["config"]["seed"] == 1
        assert (
            run.score(cells[0], first.model, "test")["accuracy"]
            == row["metrics"]["test/accuracy"]
        )
        schedule.trained(tmp_path, cells, label)
        assert "begins" not in capsys.readouterr().out
        assert (
            sorted(path.suffix for path in (tmp_path / "adapters").glob("[!.]*"))
            == [".safetensors"] * 2
        )

    def test_without_keep_nothing_is_kept(self, tmp_path):
        schedule.run("sweep", tmp_path, [CELL], label, nothing)
        assert not list((tmp_path / "adapters").glob("[!.]*"))

    def test_the_base_of_what_is_kept_is_the_loaded_one(self, tmp_path):
        (cell,) = schedule.resolved([CELL])
        ((model, _),) = schedule.trained(tmp_path, [cell], label)
        base = tree.leaves(run.bench(cell).model)
        for path, leaf in tree.leaves(methods.unload(model)).items():
            assert path.startswith("head/") or leaf is base[path]

    def test_a_cell_that_diverges_ends_an_analysis_with_its_name(self, tmp_path):
        (cell,) = schedule.resolved([{**CELL, "learning_rate": 1e30}])
        with pytest.raises(
            ValueError, match="r=1 diverged: there is no model to analyse"
        ):
            schedule.trained(tmp_path, [cell], label)

    def test_what_another_cell_learnt_is_refused(self, tmp_path):
        cells = schedule.resolved([CELL, {**CELL, "seed": 1}])
        schedule.trained(tmp_path, cells, label)
        one, other = (
            tmp_path / "adapters" / f"{results.key(cell)}.safetensors" for cell in cells
        )
        other.write_bytes(one.read_bytes())
        with pytest.raises(
            ValueError,
            match=r"expected what its cell learnt, got another's; delete it to train it anew",
        ):
            schedule.trained(tmp_path, cells, label)

    def test_a_long_training_that_was_killed_goes_on(self, tmp_path, monkeypatch):
        (cell,) = schedule.resolved([CELL])
        real = run.run
        seen = []

        def killed(*args, resume, **options):
            run.run = real
            fit = train.fit
            monkeypatch.setattr("lora_jax.train.state.SECONDS_BETWEEN_SAVES", 0.0)
            monkeypatch.setattr(
                train,
                "fit",
                lambda *a, **o: fit(*a, **{**o, "report": stop}),
            )
            real(*args, resume=resume, **options)

        def stop(at):
            if at.step == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(run, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            schedule.trained(tmp_path, [cell], label)
        monkeypatch.undo()
        monkeypatch.setattr(Display, "step", lambda self, at: seen.append(at.step))
        ((model, _),) = schedule.trained(tmp_path, [cell], label)
        assert seen[0] == 2
        ((fresh, _),) = schedule.trained(tmp_path / "fresh", [cell], label)
        same = [
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(fresh), strict=True)
        ]
        assert all(same) and not list((tmp_path / "adapters").glob("*.partial"))


def test_biases_of_matrices_that_are_not_adapted_do_not_learn():
    ((adapter, _),) = schedule.check([{**CELL, "bias": "lora_only"}])
    assert (
        adapter == 2 * (16 + 16) + 2 * 16
    )  # two layers: A and B of rank 1, and the query's bias


class TestErrors:
    def test_a_folder_that_cannot_be_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schedule.os, "access", lambda *_: False)
        with pytest.raises(
            PermissionError,
            match=r"--out: expected a folder that can be written, got .*out",
        ):
            schedule.run("sweep", tmp_path / "out", [CELL], label, nothing)

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(
            OSError,
            match=r"--out: expected a folder that can be written, got .*out.* \(Not a directory\)",
        ):
            schedule.run("sweep", tmp_path / "out", [CELL], label, nothing)

    def test_a_full_disk_while_drawing_says_that_the_rows_are_safe(self, tmp_path):
        def full(rows, out):
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(
            OSError,
            match=r"could not draw into .*the 1 rows in .*sweep.jsonl are safe: make room",
        ):
            schedule.run("sweep", tmp_path, [CELL], label, full)
        assert len(results.read(tmp_path / "sweep.jsonl")) == 1


class TestTime:
    @pytest.mark.parametrize(
        ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
    )
    def test_a_duration_in_words(self, seconds, text):
        assert clock(seconds) == text


def test_the_live_display_shows_cells_steps_loss_and_speed_in_60_columns():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, _environ={})
    with Bars(
        "{task.description}", "{task.fields[note]}", console=console, auto_refresh=False
    ) as live:
        shown = Display(2, live)
        shown.start("query r=1")
        shown.step(train.Progress(1, 1, 4, math.nan, 100))
        shown.step(train.Progress(1, 2, 4, 0.69, 200))
        live.refresh()
        shown.finish("test/accuracy 0.8000")
        live.refresh()
    said = screen.getvalue()
    assert (
        "query r=1" in said
        and "2/4" in said
        and "loss 0.690" in said
        and "tokens/s" in said
        and "left" in said
    )
    assert "[1/2] query r=1: test/accuracy 0.8000" in said and "1/2" in said
