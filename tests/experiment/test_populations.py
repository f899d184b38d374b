"""Which runs are trained together, and that their rows are those of single runs."""

import pytest

from lora_jax.experiment import Measurement, adapters, cells, check, grid, populations
from lora_jax.experiment.identity import key
from lora_jax.experiment.schedule import Schedule
from lora_jax.results import RowFile
from lora_jax.train import state
from tests.experiment.toy import BASE, measure_scaled

ATTENTION = ("query", "query,value")
NOT_COMPARED = ("seconds", "seconds_evaluating", "tokens_per_second", "peak_memory_mb")


class Killed(BaseException):
    """Stands for the signal that ends a process."""


@pytest.fixture
def runs_of(benches):
    def make(**axes):
        return check.resolved(grid(BASE, **axes), benches)

    return make


@pytest.fixture
def plan_in(benches, tmp_path):
    """`plan_in(name, population)`: a schedule with a folder of its own."""

    def make(name="out", population=8) -> Schedule:
        return Schedule(
            file=RowFile(tmp_path / name / "sweep.jsonl", key),
            out=tmp_path / name,
            benches=benches,
            provenance={"commit": "c"},
            keep=True,
            row_recorded=lambda: None,
            population=population,
        )

    return make


def trainings(runs) -> list[Measurement]:
    return [Measurement((run,)) for run in runs]


def sizes(groups) -> list[int]:
    return [len(cells) for cells in groups]


class TestGroups:
    def test_one_by_one_there_are_none(self, runs_of, benches):
        runs = runs_of(rank=(1, 2))
        assert populations.groups(runs, 0, benches) == []
        assert populations.groups(runs, 1, benches) == []

    def test_what_is_data_to_a_step_goes_together(self, runs_of, benches):
        axes = {"seed": (0, 1), "targets": ATTENTION, "rank": (1, 2)}
        runs = runs_of(**axes)
        assert sizes(populations.groups(runs, 64, benches)) == [8]
        rates = runs_of(learning_rate=(0.1, 0.2), weight_decay=(0.0, 0.1))
        assert sizes(populations.groups(rates, 64, benches)) == [4]

    def test_runs_of_a_seed_stay_together(self, runs_of, benches):
        runs = runs_of(rank=(1, 2, 3), seed=(0, 1))
        groups = populations.groups(runs, 5, benches)
        assert [{run.seed for run in cells} for cells in groups] == [{0}, {1}]
        # Of three runs of a seed, one is left, which goes with those of the next.
        assert sizes(populations.groups(runs, 2, benches)) == [2, 2, 2]

    def test_other_programs_are_other_populations(self, runs_of, benches):
        runs = runs_of(rank=(1, 2), batch=(8, 16))
        runs += runs_of(method=("head",), seed=(0, 1))
        runs += runs_of(method=("none",))
        runs += runs_of(targets=("mlp/up",))
        assert sizes(populations.groups(runs, 64, benches)) == [2, 2, 2]

    def test_seeds_with_dropout_have_programs_of_their_own(self, runs_of, benches):
        runs = runs_of(seed=(0, 1), dropout=(0.1,), rank=(1, 2))
        assert sizes(populations.groups(runs, 64, benches)) == [2, 2]

    def test_memory_bounds_a_population(self, runs_of, benches, monkeypatch):
        runs = runs_of(rank=(1, 2, 3, 4))
        stored = 300_000  # more than five copies of the trainable leaves of two cells
        monkeypatch.setattr(populations.devices, "memory_bytes", lambda: stored)
        count = populations.cells_that_fit(runs, benches)
        assert 1 <= count < 4
        monkeypatch.setattr(populations.devices, "memory_bytes", lambda: 1)
        assert populations.groups(runs, 64, benches) == []

    def test_the_plan_tells_populations_and_sizes(self, runs_of, benches):
        runs = runs_of(rank=(1, 2), batch=(8, 16))
        alone = runs_of(method=("head",))
        line = populations.plan_line((runs + alone, []), 64, benches)
        assert line == "2 populations of 2, 2 trainings, 1 training alone"
        line = populations.plan_line((alone, []), 64, benches)
        assert line == "no trainings go together: 1 training alone"

    def test_a_negative_size_is_an_error(self):
        text = "--population: expected the number of trainings .*, got -1"
        with pytest.raises(ValueError, match=text):
            populations.check_size(-1, None)

    def test_a_mesh_divides_the_cells_of_populations_alone(self):
        run = BASE.changed(mesh="cells=2")
        populations.check_size(2, run)
        with pytest.raises(ValueError, match="mesh: cells=2 divides the trainings"):
            populations.check_size(0, run)


class TestRows:
    def test_they_are_those_of_single_runs_but_for_the_time(self, plan_in, runs_of):
        runs = runs_of(rank=(1, 2), seed=(0, 1))
        items = trainings(runs)
        together = plan_in("together")
        alone = plan_in("alone", population=0)
        assert together.complete(items) == []
        assert alone.complete(items) == []
        rows = {row["key"]: row for row in together.file.read()}
        expected = {row["key"]: row for row in alone.file.read()}
        assert rows.keys() == expected.keys() == {item.key() for item in items}
        for name, row in rows.items():
            population = row.pop("population")
            assert population["cells"] == 4
            # A cell's seconds are its share.
            assert row["seconds"] == pytest.approx(population["seconds"] / 4, rel=0.5)
            reference = expected[name]
            assert row.keys() == reference.keys()
            for field in NOT_COMPARED:
                assert row.pop(field) > 0
                reference.pop(field)
            losses = row.pop("loss"), reference.pop("loss")
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)
            validation = row.pop("validation"), reference.pop("validation")
            assert validation[0][0] == pytest.approx(validation[1][0])
            assert row["metrics"] == pytest.approx(reference["metrics"])
            row.pop("metrics")
            reference.pop("metrics")
            assert row == reference
        # What they learned is kept, one by one.
        assert adapters.missing(together.out, runs) == []
        assert not list(together.out.glob("adapters/*.partial"))

    def test_rows_that_are_there_are_not_trained_again(
        self, plan_in, runs_of, monkeypatch
    ):
        plan = plan_in()
        runs = runs_of(rank=(1, 2, 3))
        plan._replace(population=0).complete(trainings(runs[:1]))
        trained = []
        real = cells.train_population

        def watched(benches, **options):
            trained.append([bench.run for bench in benches])
            real(benches, **options)

        monkeypatch.setattr(cells, "train_population", watched)
        plan.complete(trainings(runs))
        assert trained == [runs[1:]]
        plan.complete(trainings(runs))
        assert len(trained) == 1

    def test_a_run_that_diverges_has_no_row_and_the_others_do(self, plan_in, runs_of):
        plan = plan_in()
        runs = runs_of(learning_rate=(0.001, 1e30))
        (diverged,) = plan.complete(trainings(runs))
        assert "1e+30" in diverged
        (row,) = plan.file.read()
        assert row["key"] == key(runs[0].flat())

    def test_where_it_may_diverge_its_row_has_no_scores(self, plan_in, runs_of):
        plan = plan_in()
        runs = runs_of(learning_rate=(0.001, 1e30))
        items = [Measurement((run,), may_diverge=True) for run in runs]
        assert plan.complete(items) == []
        rows = plan.file.read()
        scores = [row["metrics"]["test/accuracy"] for row in rows]
        assert scores[0] is not None
        assert scores[1] is None

    def test_what_is_analyzed_is_trained_together(self, plan_in, runs_of, monkeypatch):
        monkeypatch.setattr(
            "lora_jax.experiment.schedule.train_run",
            lambda *_, **__: pytest.fail("a run was trained alone"),
        )
        plan = plan_in()
        items = []
        for run in runs_of(rank=(1, 2)):
            items.append(Measurement((run,), {"factor": 2}, measure_scaled))
        plan.complete(items)
        assert len(plan.file.read()) == 2

    def test_language_models_go_together_too(self, benches, plan_in):
        from lora_jax.experiment import presets

        base = presets.NLG_SMOKE.changed(compute="float32", rows=16, test_sources=2)
        runs = check.resolved(grid(base, rank=(1, 2)), benches)
        together, alone = plan_in("together"), plan_in("alone", population=0)
        together.complete(trainings(runs))
        alone.complete(trainings(runs))
        expected = {row["key"]: row for row in alone.file.read()}
        for row in together.file.read():
            reference = expected[row["key"]]
            assert row["population"]["cells"] == 2
            assert row["metrics"] == pytest.approx(reference["metrics"], rel=1e-4)
            outputs = [texts["outputs"] for texts in row["written"].values()]
            assert outputs == [
                texts["outputs"] for texts in reference["written"].values()
            ]


class TestKills:
    @pytest.fixture(autouse=True)
    def save_always(self, monkeypatch):
        monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0.0)

    def test_a_killed_population_goes_on(self, plan_in, runs_of, monkeypatch):
        plan = plan_in()
        runs = runs_of(rank=(1, 2), epochs=(2,))
        folder = cells.unfinished(plan.out, runs)

        def kill(screen, progress):
            if progress.step == 6:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("lora_jax.experiment.progress.Display.step", kill)
            with pytest.raises(Killed):
                plan.complete(trainings(runs))
        assert folder.exists()
        steps: list[int] = []

        def watch(screen, progress):
            steps.append(progress.step)

        monkeypatch.setattr("lora_jax.experiment.progress.Display.step", watch)
        plan.complete(trainings(runs))
        assert steps[0] == 6
        assert len(plan.file.read()) == 2
        assert not folder.exists()

    def test_killed_between_two_rows_no_step_is_taken_again(
        self, plan_in, runs_of, monkeypatch
    ):
        plan = plan_in()
        runs = runs_of(rank=(1, 2, 3))

        def kill() -> None:
            raise Killed

        with pytest.raises(Killed):
            plan._replace(row_recorded=kill).complete(trainings(runs))
        assert len(plan.file.read()) == 1
        monkeypatch.setattr(
            "lora_jax.experiment.progress.Display.step",
            lambda *_: pytest.fail("a step was taken again"),
        )
        plan.complete(trainings(runs))
        assert len(plan.file.read()) == 3
