"""Make the rows that are missing: train, measure, record; whatever happens, keep them.

Several processes started on one results file share its runs: each claims a run before
it trains. A training that takes minutes is saved now and then, and continues where it
was killed.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lora_jax import hosts, train
from lora_jax.experiment import adapters, cells
from lora_jax.experiment.config import NO_METHOD, RunConfig
from lora_jax.experiment.identity import key
from lora_jax.experiment.measurement import Measurement, labels
from lora_jax.experiment.progress import Display, display
from lora_jax.experiment.run import Trained, diverged_row, train_run
from lora_jax.experiment.workbench import Workbenches
from lora_jax.plural import counted
from lora_jax.results.baselines import predicts_one_class
from lora_jax.results.report import clock
from lora_jax.results.rows import Row, RowFile

ONE_CLASS = (
    "warning: it predicts one class throughout the validation rows, as if nothing was "
    "learned: try another learning rate or more epochs"
)


class Schedule(NamedTuple):
    """Where rows go, and what is done beside."""

    file: RowFile
    out: Path
    benches: Workbenches
    provenance: Row  # of this process, captured once, so later edits do not change it
    keep: bool
    row_recorded: Callable[[], None]  # called after each row, to draw what there is
    population: int = 0  # trainings that share a step, at most; 0 for one by one

    def complete(self, measurements: Sequence[Measurement]) -> list[str]:
        """Make every row that is missing; return the labels of runs that diverged.

        What another process is busy with is waited for at the end.

        Raises:
            ValueError: a run that a measurement needs diverged.
        """
        trainings, others = kinds(measurements)
        diverged: list[str] = []
        # A bar of no runs would only confuse.
        if trainings:
            diverged = self._train_rows(trainings)
        if others:
            self._measure_rows(others)
        return diverged

    def pending(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Return the measurements without a row yet, in their order, each once."""
        # Read anew every time: another process may have added rows.
        done = hosts.agreed(self._keys)
        by_key = {}
        for item in measurements:
            if item.key() not in done:
                by_key[item.key()] = item
        return list(by_key.values())

    def _keys(self) -> set[str]:
        return {row["key"] for row in self.file.read()}

    def to_train(self, pending: Sequence[Measurement]) -> list[RunConfig]:
        """Return the runs that pending measurements have to train, each once."""
        trainings, others = kinds(pending)
        # What a measurement needs may have been trained for another one, and kept.
        missing = self._missing(unique_runs(others))
        by_key = {}
        for run in [*unique_runs(trainings), *missing]:
            by_key[key(run.flat())] = run
        return list(by_key.values())

    def _train_rows(self, measurements: Sequence[Measurement]) -> list[str]:
        names = _names(measurements)
        diverged: list[str] = []
        with display(len(self.pending(measurements))) as screen:
            diverged += cells.train_rows(self, measurements, names, screen)
            # Once around for what is free, once more for what others were busy with.
            for wait in (False, True):
                for item in self.pending(measurements):
                    label = names[item.key()]
                    # It has no row, but would diverge again.
                    if label in diverged:
                        continue
                    with self.file.claim(item.config(), wait=wait) as is_free:
                        is_ours = hosts.agreed(lambda: is_free)
                        if is_ours and not self._train_row(item, label, screen):
                            diverged.append(label)
        return diverged

    def _train_row(self, item: Measurement, label: str, screen: Display) -> bool:
        """Train and record; False if the run diverged and must not."""
        (run,) = item.runs
        config = item.config()

        # The row may have settings beside its run's, such as a budget.
        def record(trained: Trained) -> None:
            self.file.record({**trained.row, "config": config})

        finished = self._train(run, label, screen, keep=self.keep, record=record)
        if not finished:
            finished = self.record_diverged(item)
        if finished:
            self.row_recorded()
        return finished

    def record_diverged(self, item: Measurement) -> bool:
        """Record the row of a run that diverged, if it may; else False."""
        if not item.may_diverge:
            return False
        # A result like others: the same command does not try it again.
        row = diverged_row(self.benches.bench(item.runs[0]))
        config = item.config()
        self.file.record({**row, "config": config, "provenance": self.provenance})
        return True

    def _train(
        self,
        run: RunConfig,
        label: str,
        screen: Display,
        *,
        keep: bool,
        record: Callable[[Trained], None] | None = None,
    ) -> bool:
        """Train a run; False if it diverged.

        Without `record` it is trained only to be kept.
        """
        screen.start(label)
        runs_file = RowFile(self.out / adapters.FOLDER / "runs.jsonl", key)
        # Two experiments may have a run in common: one process at a time has its
        # unfinished training.
        with runs_file.claim(run.flat(), wait=True):
            # Another process may have kept it while this one waited.
            if record is None and not self._missing([run]):
                screen.finish("kept by another process")
                return True
            return self._train_claimed(run, screen, keep, record)

    def _train_claimed(
        self,
        run: RunConfig,
        screen: Display,
        keep: bool,
        record: Callable[[Trained], None] | None,
    ) -> bool:
        """Train a run. What it learned is on disk before its row is."""
        unfinished = adapters.path_of(self.out, run).with_suffix(".partial")
        bench = self.benches.bench(run)
        try:
            trained = train_run(
                bench, report=screen.step, written=screen.texts, resume=unfinished
            )
        except train.Diverged as error:
            # What was saved on the way would only diverge once more.
            shutil.rmtree(unfinished, ignore_errors=True)
            screen.finish(str(error))
            return False
        self.record_trained(trained, screen, keep, record)
        shutil.rmtree(unfinished, ignore_errors=True)
        return True

    def record_trained(
        self,
        trained: Trained,
        screen: Display,
        keep: bool,
        record: Callable[[Trained], None] | None,
    ) -> None:
        """Keep what a run learned, and record its row."""
        trained.row["key"] = key(trained.bench.run.flat())
        trained.row["provenance"] = self.provenance
        # Killed between the two, the run is trained again; never is there a row whose
        # adapter is missing.
        if keep:
            adapters.keep(self.out, trained)
        if record:
            record(trained)
        screen.finish(_result_text(trained.row))

    def _measure_rows(self, measurements: Sequence[Measurement]) -> None:
        pending = self.pending(measurements)
        self._train_missing(pending)
        for batch in _batches(pending):
            self._measure_batch(batch)

    def _measure_batch(self, batch: Sequence[Measurement]) -> None:
        """Make the rows of measurements that have the same runs and function."""
        first = batch[0]
        assert first.measure is not None  # else it would be a training
        trained = [self._load(run) for run in first.runs]
        settings = [item.settings for item in batch]
        rows = first.measure(tuple(trained), settings)
        # Rows come one by one: each is on disk before the next is measured.
        for item, row in zip(batch, rows, strict=True):
            # Left out, as the function has said.
            if row is None:
                continue
            complete = {**row, "config": item.config(), "provenance": self.provenance}
            self.file.record(complete)
            self.row_recorded()

    def _train_missing(self, measurements: Sequence[Measurement]) -> None:
        """Train, and keep, what the measurements need and nobody has kept."""
        runs = unique_runs(measurements)
        missing = self._missing(runs)
        names = labels([run.flat() for run in missing])
        with display(len(missing)) as screen:
            cells.train_to_keep(self, missing, names, screen)
            for run, label in zip(missing, names, strict=True):
                # Kept as a cell of a population.
                if self.population and not self._missing([run]):
                    continue
                if not self._train(run, label, screen, keep=True):
                    raise cells.no_model(label)

    def _missing(self, runs: list[RunConfig]) -> list[RunConfig]:
        """The runs of which nothing is kept."""
        keys = hosts.agreed(lambda: self._missing_keys(runs))
        return [run for run in runs if key(run.flat()) in keys]

    def _missing_keys(self, runs: list[RunConfig]) -> set[str]:
        return {key(run.flat()) for run in adapters.missing(self.out, runs)}

    def _load(self, run: RunConfig) -> Trained:
        return adapters.load(self.out, self.benches.bench(run))


def kinds(
    measurements: Iterable[Measurement],
) -> tuple[list[Measurement], list[Measurement]]:
    """Return the measurements that are a training, and those that analyze runs."""
    trainings = []
    others = []
    for item in measurements:
        kind = others if item.measure else trainings
        kind.append(item)
    return trainings, others


def unique_runs(measurements: Iterable[Measurement]) -> list[RunConfig]:
    """Return the runs that measurements need, each once, in order."""
    by_key = {}
    for item in measurements:
        for run in item.runs:
            by_key[key(run.flat())] = run
    return list(by_key.values())


def report_diverged(diverged: Sequence[str]) -> None:
    """Exit with 1 and the names of the runs that diverged, if any did."""
    if diverged:
        names = "; ".join(diverged)
        sys.exit(f"{counted(len(diverged), 'run')} diverged, without a row: {names}")


def _batches(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Measurements of the same runs by the same function, together."""
    by_runs: dict[tuple, list[Measurement]] = {}
    for item in measurements:
        shared = (item.run_keys(), item.measure)
        by_runs.setdefault(shared, []).append(item)
    return list(by_runs.values())


def _names(measurements: Sequence[Measurement]) -> dict[str, str]:
    """A label for each measurement, by its key."""
    texts = labels([item.config() for item in measurements])
    names = {}
    for item, text in zip(measurements, texts, strict=True):
        names[item.key()] = text
    return names


def _result_text(row: Row) -> str:
    scores = []
    for name, value in row["metrics"].items():
        scores.append(f"{name} {value:.4f}")
    text = f"{', '.join(scores)}  ({clock(row['seconds'])})"
    # As pretrained its head is random: nobody expects anything of it.
    if row["config"]["method"] != NO_METHOD and predicts_one_class(row):
        text += f"\n  {ONE_CLASS}"
    return text
