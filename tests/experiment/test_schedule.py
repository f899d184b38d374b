"""Runs are trained once, kept, resumed, shared; what diverges or fails is said."""

import errno
import io
import math
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from lora_jax import methods, results, train, tree
from lora_jax.experiment import Experiment, Measurement, adapters, check, grid, presets
from lora_jax.experiment import schedule as schedules
from lora_jax.experiment.config import key
from lora_jax.experiment.measurement import labels
from lora_jax.experiment.progress import Display
from lora_jax.experiment.run import score, train_run
from lora_jax.experiment.schedule import Schedule
from lora_jax.experiment.workbench import Workbenches
from lora_jax.results import Report, RowFile, Section

BENCHES = Workbenches()
BASE = presets.SMOKE.changed(compute="float32", targets="query", rank=1)


def runs_of(**axes):
    return check.resolved(grid(BASE, **axes), BENCHES)


def ignore() -> None:
    """Draw nothing."""


def schedule_in(folder, *, keep: bool = False) -> Schedule:
    file = RowFile(folder / "sweep.jsonl", key)
    return Schedule(file, folder, BENCHES, {"commit": "c"}, keep, ignore)


def measure_scores(trained, settings):
    """A measurement: the test score of the first run, times a factor."""
    accuracy = score(trained[0].bench, trained[0].model, "test")["accuracy"]
    for setting in settings:
        yield {"metrics": {"test/scaled": setting["factor"] * accuracy}}


class TestRows:
    def test_a_training_has_its_row_and_nothing_is_trained_twice(
        self, tmp_path, capsys
    ):
        items = [Measurement((run,)) for run in runs_of(seed=(0, 1))]
        plan = schedule_in(tmp_path)
        assert plan.complete(items) == []
        rows = plan.file.read()
        assert [row["config"]["seed"] for row in rows] == [0, 1]
        assert rows[0]["provenance"] == {"commit": "c"}
        assert rows[0]["parameters"] == {"adapter": 64, "head": 34}
        assert not list((tmp_path / "adapters").glob("*.safetensors"))
        capsys.readouterr()
        assert plan.complete(items) == []
        assert "begins" not in capsys.readouterr().out

    def test_a_measurement_trains_what_nobody_kept_and_shares_it(
        self, tmp_path, capsys
    ):
        (run,) = runs_of(seed=(0,))
        items = []
        for factor in (1, 10):
            items.append(Measurement((run,), {"factor": factor}, measure_scores))
        plan = schedule_in(tmp_path)
        plan.complete(items)
        assert capsys.readouterr().out.count("begins") == 1
        one, ten = [row["metrics"]["test/scaled"] for row in plan.file.read()]
        assert ten == pytest.approx(10 * one)
        assert plan.file.read()[0]["config"]["factor"] == 1

    def test_what_was_kept_is_loaded_with_the_base_as_it_is(self, tmp_path):
        (run,) = runs_of(seed=(0,))
        plan = schedule_in(tmp_path, keep=True)
        plan.complete([Measurement((run,))])
        bench = BENCHES.bench(run)
        trained = adapters.load(tmp_path, bench)
        assert adapters.missing(tmp_path, [run]) == []
        accuracy = score(bench, trained.model, "test")["accuracy"]
        assert accuracy == plan.file.read()[0]["metrics"]["test/accuracy"]
        base = tree.leaves(bench.model)
        for path, leaf in tree.leaves(methods.unload(trained.model)).items():
            assert path.startswith("head/") or leaf is base[path]

    def test_what_another_run_learned_is_refused(self, tmp_path):
        one, other = runs_of(seed=(0, 1))
        plan = schedule_in(tmp_path, keep=True)
        plan.complete([Measurement((one,))])
        path = adapters.path_of(tmp_path, other)
        path.write_bytes(adapters.path_of(tmp_path, one).read_bytes())
        with pytest.raises(ValueError, match=r"expected what this run learned, got an"):
            adapters.load(tmp_path, BENCHES.bench(other))

    def test_a_run_that_diverges_has_no_row_and_the_others_go_on(self, tmp_path):
        bad, good = runs_of(learning_rate=(1e30, 1e-3))
        plan = schedule_in(tmp_path)
        diverged = plan.complete([Measurement((bad,)), Measurement((good,))])
        assert diverged == ["learning_rate=1e+30"]
        assert len(plan.file.read()) == 1
        with pytest.raises(SystemExit, match="1 runs diverged and have no row: learn"):
            schedules.report_diverged(diverged)

    def test_a_measurement_of_a_run_that_diverges_is_an_error(self, tmp_path):
        (bad,) = runs_of(learning_rate=(1e30,))
        item = Measurement((bad,), {"factor": 1}, measure_scores)
        with pytest.raises(ValueError, match="diverged: there is no model to analyze"):
            schedule_in(tmp_path).complete([item])

    def test_a_training_that_was_killed_continues(self, tmp_path, monkeypatch):
        (run,) = runs_of(seed=(0,))
        bench = BENCHES.bench(run)
        saver = "lora_jax.train.state.SECONDS_BETWEEN_SAVES"
        try:
            monkeypatch.setattr(saver, 0.0)
        except AttributeError:
            pytest.fail("the state's interval has another name")

        def stop(progress):
            if progress.step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_run(bench, report=stop, resume=tmp_path / "state")
        steps = []

        def record(progress):
            steps.append(progress.step)

        resumed = train_run(bench, report=record, resume=tmp_path / "state")
        assert steps[0] == 2
        fresh = train_run(bench)
        leaves = zip(
            jax.tree.leaves(resumed.model), jax.tree.leaves(fresh.model), strict=True
        )
        assert all(np.array_equal(one, other) for one, other in leaves)


@dataclass(frozen=True)
class Options:
    factors: tuple[int, ...] = (1,)
    """What the score is multiplied by."""


def measurements(options, base, _benches):
    runs = grid(base.changed(compute="float32"), rank=(1,))
    return [
        Measurement(runs[:1], {"factor": factor}, measure_scores)
        for factor in options.factors
    ]


def show(rows):
    table = results.frame(rows)[["factor", "test/scaled"]]
    return Report("Toy", "A toy.", [Section("Scores", [table])], data=table)


TOY = Experiment("toy", {"quick": (Options(), BASE)}, measurements, show, "A toy?")


class TestExperiment:
    def test_says_what_it_does_and_draws_a_page(self, tmp_path, capsys):
        TOY.main(["--out", str(tmp_path), "--factors", "1", "2"])
        text = capsys.readouterr().out
        assert text.startswith("A toy?\nPreset quick; rows go to ")
        assert "Ctrl-C stops at any time; the same command continues." in text
        assert "2 rows, 0 of them there already" in text
        assert f"wrote {tmp_path / 'toy' / 'README.md'}" in text
        assert (tmp_path / "toy" / "README.md").read_text().startswith("# Toy")
        TOY.main(["--out", str(tmp_path), "--factors", "1", "2"])
        assert "2 rows, 2 of them there already" in capsys.readouterr().out

    def test_a_dry_run_trains_nothing(self, tmp_path, capsys):
        TOY.main(["--out", str(tmp_path / "out"), "--dry-run"])
        text = capsys.readouterr().out
        assert "to do             64        34" in text
        assert "on this machine" in text
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--preset", "quik"], "--preset: expected one of quick, got 'quik'"),
            (["--method", "lroa"], "method: expected one of lora.*got lroa"),
            (["--rows", "-1"], r"rows: expected 0 or more \(0 is all\), got -1"),
            (["--lr", "0", "--batch", "0"], "learning_rate: expected.*batch: expected"),
            (["--data", "tiny", "--data-dir", "x"], "data_dir: goes with cola, sst2"),
        ],
    )
    def test_a_wrong_setting_is_an_error_before_anything_is_trained(
        self, tmp_path, flags, message
    ):
        with pytest.raises(ValueError, match=message):
            TOY.main(["--out", str(tmp_path / "out"), *flags])
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_cannot_be_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(check.os, "access", lambda *_: False)
        with pytest.raises(PermissionError, match=r"--out: expected a folder that can"):
            TOY.main(["--out", str(tmp_path / "out")])

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(OSError, match=r"--out: expected a folder .*File exists"):
            TOY.main(["--out", str(tmp_path / "out")])

    def test_a_full_disk_while_drawing_says_that_the_rows_are_safe(
        self, tmp_path, monkeypatch
    ):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("lora_jax.results.files.write", full)
        with pytest.raises(OSError, match=r"could not draw into .*toy.jsonl are safe"):
            experiment = TOY._replace(keep=False)
            (tmp_path / "adapters").mkdir()
            keep_existing = adapters.keep
            monkeypatch.setattr(adapters, "keep", lambda *_: None)
            monkeypatch.setattr(adapters, "load", lambda out, bench: train_run(bench))
            assert keep_existing is not adapters.keep
            experiment.main(["--out", str(tmp_path)])
        assert len(results.read(tmp_path / "toy.jsonl")) == 1


class TestLabels:
    def test_only_what_differs_is_named(self):
        configs = [{"rank": 1, "seed": 0}, {"rank": 2, "seed": 0}]
        assert labels(configs) == ["rank=1", "rank=2"]

    def test_a_setting_that_only_some_have_is_not_a_difference(self):
        configs = [{"method": "lora", "rank": 8}, {"method": "full"}]
        assert labels(configs) == ["method=lora", "method=full"]

    def test_a_single_one_is_named_by_data_and_method(self):
        assert labels([{"data": "tiny", "method": "lora"}]) == ["tiny lora"]


def test_the_live_display_shows_runs_steps_loss_and_speed_in_60_columns():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, _environ={})
    columns = ("{task.description}", "{task.fields[note]}")
    with Bars(*columns, console=console, auto_refresh=False) as live:
        shown = Display(2, live)
        shown.start("query r=1")
        shown.step(train.Progress(1, 1, 4, math.nan, 100))
        shown.step(train.Progress(1, 2, 4, 0.69, 200))
        live.refresh()
        shown.finish("test/accuracy 0.8000")
        live.refresh()
    text = screen.getvalue()
    for part in ("query r=1", "2/4", "loss 0.690", "tokens/s", "left", "1/2"):
        assert part in text
    assert "[1/2] query r=1: test/accuracy 0.8000" in text
