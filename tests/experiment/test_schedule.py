"""Runs are trained once, kept, resumed and shared by processes; some diverge."""

import os

import forkme
import pytest

from lora_jax import results
from lora_jax.experiment import Measurement, adapters, check, grid, schedule
from lora_jax.experiment.identity import key
from lora_jax.experiment.run import score, train_run
from lora_jax.experiment.schedule import Schedule
from lora_jax.results import RowFile
from tests.conftest import CACHE
from tests.experiment import scripts
from tests.experiment.toy import BASE, measure_scaled


@pytest.fixture
def runs_of(benches):
    """`runs_of(seed=(0, 1))`: complete runs, one for each value."""

    def make(**axes):
        return check.resolved(grid(BASE, **axes), benches)

    return make


@pytest.fixture
def plan(benches, tmp_path) -> Schedule:
    """A schedule whose rows go to a folder of the test's."""
    return Schedule(
        file=RowFile(tmp_path / "sweep.jsonl", key),
        out=tmp_path,
        benches=benches,
        provenance={"commit": "c"},
        keep=False,
        row_recorded=lambda: None,
    )


def fail(*_, **__):
    pytest.fail("a run was trained though nothing is missing")


def trainings(runs) -> list[Measurement]:
    return [Measurement((run,)) for run in runs]


def scaled(run, *factors) -> list[Measurement]:
    """A measurement of the run for each factor."""
    items = []
    for factor in factors:
        items.append(Measurement((run,), {"factor": factor}, measure_scaled))
    return items


class TestTrainings:
    def test_each_has_its_row_and_nothing_is_trained_twice(
        self, plan, runs_of, monkeypatch
    ):
        items = trainings(runs_of(seed=(0, 1)))
        assert plan.complete(items) == []
        rows = plan.file.read()
        assert [row["config"]["seed"] for row in rows] == [0, 1]
        assert rows[0]["provenance"] == {"commit": "c"}
        assert rows[0]["parameters"] == {"adapter": 64, "head": 34}
        # Nothing is kept unless that was asked for.
        assert not list(plan.out.rglob("*.safetensors"))
        monkeypatch.setattr(schedule, "train_run", fail)
        assert plan.complete(items) == []
        assert plan.file.read() == rows

    def test_a_row_may_have_settings_beside_its_runs(self, plan, runs_of):
        (run,) = runs_of(seed=(0,))
        plan.complete([Measurement((run,), {"budget": 64})])
        (row,) = plan.file.read()
        assert row["config"] == {**run.flat(), "budget": 64}

    def test_what_it_learned_is_kept_and_gives_the_rows_score(self, plan, runs_of):
        (run,) = runs_of(seed=(0,))
        plan = plan._replace(keep=True)
        plan.complete(trainings([run]))
        assert adapters.missing(plan.out, [run]) == []
        trained = adapters.load(plan.out, plan.benches.bench(run))
        scores = score(trained.bench, trained.model, "test")
        (row,) = plan.file.read()
        assert scores["accuracy"] == row["metrics"]["test/accuracy"]
        # No unfinished training is left.
        assert not list(plan.out.rglob("*.partial"))

    def test_a_page_can_be_drawn_after_each_row(self, plan, runs_of):
        rows = []

        def count_rows():
            rows.append(len(plan.file.read()))

        drawing = plan._replace(row_recorded=count_rows)
        drawing.complete(trainings(runs_of(seed=(0, 1))))
        assert rows == [1, 2]

    def test_one_that_diverges_has_no_row_and_the_others_go_on(
        self, plan, runs_of, capsys
    ):
        runs = runs_of(learning_rate=(1e30, 1e-3))
        diverged = plan.complete(trainings(runs))
        assert diverged == ["learning_rate=1e+30"]
        (row,) = plan.file.read()
        assert row["config"]["learning_rate"] == 1e-3
        assert "[1/2] learning_rate=1e+30: " in capsys.readouterr().out
        message = "1 run diverged, without a row: learning_rate=1e\\+30"
        with pytest.raises(SystemExit, match=message):
            schedule.report_diverged(diverged)

    def test_one_that_may_diverge_has_a_row_without_scores(
        self, plan, runs_of, monkeypatch
    ):
        (run,) = runs_of(learning_rate=(1e30,))
        items = [Measurement((run,), {"budget": 64}, may_diverge=True)]
        assert plan.complete(items) == []
        (row,) = plan.file.read()
        assert row["metrics"] == {"validation/accuracy": None, "test/accuracy": None}
        assert row["config"] == {**run.flat(), "budget": 64}
        assert row["provenance"] == {"commit": "c"}
        # It is not tried again.
        monkeypatch.setattr(schedule, "train_run", fail)
        assert plan.complete(items) == []

    @pytest.mark.parametrize("rate", [1e-9, 0.05])
    def test_one_that_predicts_one_class_is_warned_of(
        self, rate, plan, runs_of, capsys
    ):
        plan.complete(trainings(runs_of(learning_rate=(rate,))))
        (row,) = plan.file.read()
        is_collapsed = row["validation"][0]["predicted_classes"] == 1
        warned = "warning: it predicts one class" in capsys.readouterr().out
        assert warned == is_collapsed

    def test_where_none_diverged_the_exit_is_as_usual(self):
        schedule.report_diverged([])


class TestMeasurements:
    def test_they_train_what_nobody_kept_and_share_it(self, plan, runs_of, capsys):
        (run,) = runs_of(seed=(0,))
        plan.complete(scaled(run, 1, 10))
        assert capsys.readouterr().out.count("begins") == 1
        first, second = plan.file.read()
        single = first["metrics"]["test/scaled"]
        multiple = second["metrics"]["test/scaled"]
        assert multiple == pytest.approx(10 * single)
        assert first["config"] == {**run.flat(), "factor": 1}
        assert first["provenance"] == {"commit": "c"}

    def test_a_further_one_trains_nothing(self, plan, runs_of, monkeypatch):
        (run,) = runs_of(seed=(0,))
        plan.complete(scaled(run, 1))
        monkeypatch.setattr(schedule, "train_run", fail)
        plan.complete(scaled(run, 1, 2))
        factors = [row["config"]["factor"] for row in plan.file.read()]
        assert factors == [1, 2]

    def test_a_run_that_another_process_kept_meanwhile_is_not_trained(
        self, plan, runs_of, monkeypatch, capsys
    ):
        (run,) = runs_of(seed=(0,))
        plan.complete(scaled(run, 1))
        answers = [[run], []]
        # It was there only after this process had looked.
        monkeypatch.setattr(adapters, "missing", lambda out, runs: answers.pop(0))
        monkeypatch.setattr(schedule, "train_run", fail)
        plan.complete(scaled(run, 2))
        assert "tiny lora: kept by another process" in capsys.readouterr().out
        assert len(plan.file.read()) == 2

    def test_rows_are_recorded_one_by_one(self, plan, runs_of):
        (run,) = runs_of(seed=(0,))
        counts = []

        def measure(trained, settings):
            for _ in settings:
                counts.append(len(plan.file.read()))
                yield {"metrics": {"test/score": 1.0}}

        items = []
        for factor in (1, 2):
            items.append(Measurement((run,), {"factor": factor}, measure))
        plan.complete(items)
        assert counts == [0, 1]

    def test_one_without_a_run_trains_nothing(self, plan, monkeypatch):
        def measure(trained, settings):
            assert trained == ()
            return [{"metrics": {"count/all": 3}}]

        monkeypatch.setattr(schedule, "train_run", fail)
        plan.complete([Measurement((), {"table": 2}, measure)])
        (row,) = plan.file.read()
        assert row["config"] == {"table": 2}

    def test_one_of_a_run_that_diverges_is_an_error(self, plan, runs_of):
        (run,) = runs_of(learning_rate=(1e30,))
        with pytest.raises(ValueError, match="diverged: there is no model to analyze"):
            plan.complete(scaled(run, 1))


class TestPending:
    def test_they_are_those_without_a_row_each_once(self, plan):
        first, second = trainings(grid(BASE, seed=(0, 1)))
        row = {"config": first.config(), "metrics": {}}
        assert plan.pending([first, second, second]) == [first, second]
        plan.file.record(row)
        assert plan.pending([first, second, second]) == [second]

    def test_runs_of_several_measurements_are_there_once(self):
        first, second = grid(BASE, seed=(0, 1))
        items = [
            Measurement((first, second)),
            Measurement((second,)),
            Measurement(),
        ]
        assert schedule.unique_runs(items) == [first, second]


def test_a_training_that_was_killed_continues(
    benches, runs_of, same, tmp_path, monkeypatch
):
    (run,) = runs_of(seed=(0,))
    bench = benches.bench(run)
    monkeypatch.setattr("lora_jax.train.state.SECONDS_BETWEEN_SAVES", 0.0)
    steps = []

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    def record(progress):
        steps.append(progress.step)

    with pytest.raises(KeyboardInterrupt):
        train_run(bench, report=stop, resume=tmp_path / "state")
    resumed = train_run(bench, report=record, resume=tmp_path / "state")
    # The first step was saved before the second was stopped.
    assert steps == [2, 3, 4]
    fresh = train_run(bench)
    assert same(resumed.model, fresh.model)


def alphas_of(rows) -> list[float]:
    return [row["config"]["alpha"] for row in rows]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with the programs that the tests have compiled."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "xla").symlink_to(os.environ[CACHE], target_is_directory=True)
    return folder


class TestProcesses:
    """A sweep of four trainings, in another process and in this one."""

    @pytest.fixture
    def words(self, tmp_path) -> list[str]:
        # In float32 the programs are those of the tests above.
        words = ["--alphas", "1", "2", "4", "8", "--compute", "float32"]
        return [*words, "--out", str(tmp_path)]

    def continue_here(self, words) -> None:
        """The same command in this process, which need not start."""
        forkme.EXPERIMENT.main(["--preset", "smoke", *words])

    def test_after_a_kill_the_same_command_continues(
        self, tmp_path, words, programs, capsys
    ):
        path = tmp_path / "forkme.jsonl"
        with scripts.start("forkme", *words, cache=programs) as script:
            scripts.read_until(script, "[1/4] alpha=1: ")
            # kill -9: nothing of it is run any more.
            script.kill()
        before = path.read_bytes()
        finished = before.count(b"\n")
        # Further runs may have been finished just before the kill.
        assert 1 <= finished < 4
        self.continue_here(words)
        text = capsys.readouterr().out
        assert f"4 rows, {finished} of them there already" in text
        assert text.count(" begins") == 4 - finished
        assert path.read_bytes().startswith(before)
        assert alphas_of(results.read(path)) == [1, 2, 4, 8]

    def test_two_at_once_share_the_runs(self, tmp_path, words, programs, capsys):
        with scripts.start("forkme", *words, cache=programs) as script:
            scripts.read_until(script, "4 rows, 0 of them there already")
            self.continue_here(words)
            text = scripts.read_all(script)
        text += capsys.readouterr().out
        assert text.count(" begins") == 4
        rows = results.read(tmp_path / "forkme.jsonl")
        # In the order in which they were finished.
        assert sorted(alphas_of(rows)) == [1, 2, 4, 8]
