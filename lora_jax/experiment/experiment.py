"""An experiment is a value: what to run, what to measure, what to show.

`main` is the same for all of them: it parses flags, checks everything, trains and
measures what has no row yet, and draws the page. An interrupted experiment continues
with the same command.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lora_jax import download
from lora_jax.experiment import (
    check,
    cli,
    fitting,
    forecast,
    populations,
    process,
    provenance,
    row_settings,
    schedule,
)
from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.identity import comparison_key, complete_config, key
from lora_jax.experiment.measurement import Measurement
from lora_jax.experiment.redraw import Redraw
from lora_jax.experiment.workbench import Workbenches
from lora_jax.plural import counted
from lora_jax.results import report as reports
from lora_jax.results import row_fields
from lora_jax.results.report import Report, clock
from lora_jax.results.row_fields import Needs
from lora_jax.results.rows import Row, RowFile

REFERENCE = "reference"  # the folder of the committed rows, in results/
REPOSITORY = Path(__file__).resolve().parents[2]


class Experiment(NamedTuple):
    """A table or figure of a paper: `<name>.jsonl`, and what is drawn from it."""

    name: str
    # By name: the experiment's own options, and the run that its flags change; None
    # where nothing is trained. The first sentence of `description` is the question.
    presets: Mapping[str, tuple[Any, RunConfig | None]]
    measurements: Callable[[Any, RunConfig, Workbenches], list[Measurement]]
    report: Callable[[list[Row]], Report]
    description: str | None  # the script's docstring
    keep: bool = False  # keep what runs learn, unless --no-keep
    hidden: tuple[str, ...] = ()  # settings of a run that it chooses itself
    cores_as_devices: bool = True  # not for language models, see `process.prepare`
    needs: Callable[[Row], Needs] = row_fields.no_needs  # what the page reads of a row

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Do what the command line says.

        Exits with 1, and the names of the runs, if any of them diverged.

        Raises:
            ValueError, OSError: a setting, a model or data is wrong, or a folder cannot
                be written; before anything is trained.
        """
        command = self._command(arguments)
        # The process starts anew here, so before anything is loaded. Not under tests,
        # which pass their arguments; nor among several, which have to be joined before
        # the backend is asked.
        if command.huge_pages and arguments is None and not command.coordinator:
            process.use_huge_pages()
        with process.together(command, self.name) as joined:
            self._run(joined)

    def _run(self, command: cli.Command) -> None:
        """Do what the command line says."""
        populations.check_size(command.population, command.run)
        # A line that is no row is an error before anything is loaded.
        self.rows(command.out)
        self._announce(command)

        # All that can be wrong is wrong before the first training.
        benches = Workbenches()
        items = self._resolved(command, benches)
        by_key = forecast.forecasts(schedule.unique_runs(items), benches)
        redraw = Redraw(self, command.out)
        plan = schedule.Schedule(
            file=self.file(command.out),
            out=command.out,
            benches=benches,
            provenance=provenance.provenance(),
            keep=command.keep,
            row_recorded=redraw.row_recorded,
            population=command.population,
        )
        pending = plan.pending(items)
        done = len(items) - len(pending)
        print(f"{counted(len(items), 'row')}, {done} of them there already", flush=True)
        if command.dry_run:
            print("\n".join(forecast.plan_lines(items, pending, by_key)))
            if command.population > 1:
                print(_population_line(plan, pending))
            if line := fitting.compiled_line(plan.to_train(pending), benches):
                print(line, flush=True)
        if time_text := self._time_text(pending, plan.to_train(pending), by_key):
            print(time_text, flush=True)
        if command.dry_run:
            return

        check.writable_folder(command.out)
        diverged = plan.complete(items)
        for path in redraw.final():
            print(f"wrote {path}")
        schedule.report_diverged(diverged)

    @property
    def question(self) -> str:
        """The first paragraph of the description, in one line."""
        paragraph = (self.description or "").strip().partition("\n\n")[0]
        return " ".join(paragraph.split())

    def script(self) -> None:
        """Run as a script: an error is one message."""
        process.prepare(cores_as_devices=self.cores_as_devices)
        process.run_main(self.main)

    def file(self, out: Path) -> RowFile:
        """Return the experiment's rows in a folder."""
        return RowFile(out / f"{self.name}.jsonl", key, self.problems)

    def problems(self, row: Row) -> list[str]:
        """Return a sentence on each field of a row that the page could not read."""
        needs = {**row_fields.PROVENANCE, **self.needs(row)}
        # Options that its method does not take are not missing.
        needs = row_settings.applicable(needs, row["config"])
        # In a config of no run the page's needs alone say what a setting may be.
        sentences = row_fields.problems(row, needs) + row_settings.problems(row)
        # A setting that is wrong for the page and for a run is told once.
        by_place: dict[str, str] = {}
        for sentence in sentences:
            place = sentence.partition(":")[0]
            by_place.setdefault(place, sentence)
        return list(by_place.values())

    def rows(self, out: Path) -> list[Row]:
        """Return the rows in a folder, with settings that came later at their defaults."""
        rows = self.file(out).read()
        return [{**row, "config": complete_config(row["config"])} for row in rows]

    def draw(self, out: Path) -> list[Path]:
        """Draw the page from the rows of a folder, the reference rows beside them."""
        rows = self.rows(out)
        # A page of nothing would overwrite one of something.
        if not rows:
            return []
        try:
            report = self.report(rows)
            reference = self._reference(rows, out)
            return reports.write(report, out / self.name, reference)
        # Rows may be sound one by one, and yet not fit each other.
        except ValueError as error:
            path = self.file(out).path
            raise ValueError(f"{path}: its rows make no page: {error}") from error

    def _command(self, arguments: Sequence[str] | None) -> cli.Command:
        """What the command line says."""
        return cli.parse(
            self.name,
            self.description or "",
            self.presets,
            keep=self.keep,
            hidden=self.hidden,
            arguments=arguments,
        )

    def _reference(self, rows: Sequence[Row], out: Path) -> Report | None:
        """The report of the reference rows that have the settings of these rows."""
        folder = reference_folder()
        # The reference's own page has nothing to be compared with.
        if folder is None or out.resolve() == folder.resolve():
            return None
        comparable = {comparison_key(row["config"]) for row in rows}
        same = []
        for row in self.rows(folder):
            if comparison_key(row["config"]) in comparable:
                same.append(row)
        return self.report(same) if same else None

    def _resolved(
        self, command: cli.Command, benches: Workbenches
    ) -> list[Measurement]:
        """The measurements, their runs complete."""
        run = command.run
        # Before any download: paths of matrices, for one, need the model.
        if run is not None:
            # 0 epochs are the experiment's to fill in; all runs are checked below.
            epochs = run.train.epochs or 1
            check.check_options(run.changed(epochs=epochs), command.options)
        items = self.measurements(command.options, run or RunConfig(), benches)
        if not items:
            raise ValueError(
                "nothing to do: expected at least one value in each list of options"
            )
        # By key: settings that do nothing for a run make the same row twice.
        resolved = {}
        for item in items:
            runs = check.resolved(item.runs, benches)
            complete = item._replace(runs=tuple(runs))
            resolved.setdefault(complete.key(), complete)
        return list(resolved.values())

    def _announce(self, command: cli.Command) -> None:
        """Say at once what happens, how long it takes, and where it goes."""
        print(self.question)
        page = command.out / self.name / "README.md"
        rows = command.out / f"{self.name}.jsonl"
        print(f"Preset {command.preset}; rows go to {rows}, the page to {page}.")
        # How long this command takes is known once its rows are, see `_time_text`.
        reference = self._reference_seconds()
        if reference and command.preset == cli.DEFAULT_PRESET:
            seconds = clock(sum(reference.values()))
            rows_text = counted(len(reference), "reference row")
            print(f"The {rows_text} took {seconds} on two cores.")
        print("Ctrl-C stops at any time; the same command continues.")
        print(f"Downloads are kept in {download.cache_folder()}.", flush=True)

    def _reference_seconds(self) -> dict[str, float]:
        """The seconds that each reference row took, by its key."""
        folder = reference_folder()
        if folder is None:
            return {}
        by_key = {}
        for row in self.file(folder).read():
            seconds = row.get("seconds")
            # Rows of timed steps have a list.
            if isinstance(seconds, int | float):
                by_key[row["key"]] = seconds
        return by_key

    def _time_text(
        self,
        pending: Sequence[Measurement],
        runs: Sequence[RunConfig],
        by_key: Mapping[str, forecast.Forecast],
    ) -> str | None:
        """How long pending rows, and the runs they train, take; None if nobody knows."""
        reference = self._reference_seconds()
        keys = [item.key() for item in pending]
        # Measured beats computed.
        if keys and all(name in reference for name in keys):
            seconds = sum(reference[name] for name in keys)
            return f"about {clock(seconds)}, as the reference rows took on two cores"
        seconds = forecast.seconds(runs, by_key)
        # Measurements without a training are not estimated.
        if not seconds:
            return None
        count = counted(len(runs), "training")
        return f"about {clock(seconds)} on this machine for {count}"


def _population_line(plan: schedule.Schedule, pending: Sequence[Measurement]) -> str:
    """What is trained together: first for rows, and then to be kept for analyses."""
    trainings, _ = schedule.kinds(pending)
    rows = schedule.unique_runs(trainings)
    row_keys = {key(run.flat()) for run in rows}
    kept = []
    for run in plan.to_train(pending):
        if key(run.flat()) not in row_keys:
            kept.append(run)
    return populations.plan_line((rows, kept), plan.population, plan.benches)


def reference_folder() -> Path | None:
    """Return the committed rows' folder; None in an installation without the checkout."""
    folder = REPOSITORY / "results" / REFERENCE
    return folder if folder.exists() else None
