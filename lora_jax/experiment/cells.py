"""Train runs as the cells of a population, and record each as a run of its own."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from lora_jax import hosts, train
from lora_jax.experiment import adapters, populations
from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.identity import key
from lora_jax.experiment.measurement import Measurement
from lora_jax.experiment.progress import Display
from lora_jax.experiment.run import Trained
from lora_jax.experiment.run_many import train_population
from lora_jax.plural import counted
from lora_jax.results.rows import RowFile


class Job(NamedTuple):
    """One run, and what is to become of it."""

    run: RunConfig
    label: str
    # Claims it for this process until the stack ends; False where it is not ours.
    claim: Callable[[ExitStack], bool]
    done: Callable[[Trained], None]
    diverged: Callable[[train.Diverged], None]


def train_rows(
    plan: Any,
    measurements: Sequence[Measurement],
    names: Mapping[str, str],
    screen: Display,
) -> list[str]:
    """Train together what goes together; return the labels of runs that diverged.

    `plan` is a `Schedule`, which has this done before it trains the others one by one.
    """
    diverged: list[str] = []

    def job_of(item: Measurement) -> Job:
        (run,) = item.runs
        config = item.config()
        label = names[item.key()]

        # The row may have settings beside its run's, such as a budget.
        def record(trained: Trained) -> None:
            plan.file.record({**trained.row, "config": config})

        def done(trained: Trained) -> None:
            plan.record_trained(trained, screen, plan.keep, record)
            plan.row_recorded()

        def end_diverged(error: train.Diverged) -> None:
            screen.finish(str(error))
            if plan.record_diverged(item):
                plan.row_recorded()
            else:
                diverged.append(label)

        def claim(claims: ExitStack) -> bool:
            is_free = claims.enter_context(plan.file.claim(config))
            return hosts.agreed(lambda: is_free)

        return Job(run, label, claim, done, end_diverged)

    _train_jobs(plan, list(map(job_of, measurements)), screen)
    return diverged


def train_to_keep(
    plan: Any, runs: Sequence[RunConfig], names: Sequence[str], screen: Display
) -> None:
    """Train together what goes together, to keep what it learns.

    Raises:
        ValueError: a run diverged.
    """

    def job_of(run: RunConfig, label: str) -> Job:
        def done(trained: Trained) -> None:
            plan.record_trained(trained, screen, True, None)

        def end_diverged(error: train.Diverged) -> None:
            screen.finish(str(error))
            raise no_model(label) from error

        def claim(_: ExitStack) -> bool:
            return bool(hosts.agreed(lambda: adapters.missing(plan.out, [run])))

        return Job(run, label, claim, done, end_diverged)

    _train_jobs(plan, list(map(job_of, runs, names)), screen)


def no_model(label: str) -> ValueError:
    """Return the error of a run that was to be analyzed."""
    return ValueError(f"{label} diverged: there is no model to analyze")


def _train_jobs(plan: Any, jobs: Sequence[Job], screen: Display) -> None:
    """Train the runs of each population together, as far as they are to be trained.

    A population of which one run alone is left is skipped.
    """
    runs = [job.run for job in jobs]
    by_key = {key(job.run.flat()): job for job in jobs}
    for cells in populations.groups(runs, plan.population, plan.benches):
        with ExitStack() as claims:
            ours = {}
            for run in cells:
                job = by_key.get(key(run.flat()))
                if job is not None and job.claim(claims):
                    ours[key(run.flat())] = job
            if ours:
                _train(plan, cells, ours, screen)


def _train(
    plan: Any,
    cells: Sequence[RunConfig],
    ours: dict[str, Job],
    screen: Display,
) -> None:
    """Train the jobs of a population; the others' rows are there already."""
    runs = list(cells)
    # Killed among its tests, a population has rows of some cells. All of them go on
    # from the save, which costs no step.
    if not hosts.agreed(unfinished(plan.out, runs).exists):
        runs = [job.run for job in ours.values()]
    if len(runs) < 2:
        return
    folder = unfinished(plan.out, runs)
    files = RowFile(plan.out / adapters.FOLDER / "runs.jsonl", key)
    # Two experiments may have a population in common.
    with files.claim({"population": folder.stem}, wait=True):
        screen.start(counted(len(runs), "training") + " together", cells=len(ours))

        def finished(index: int, result: Trained | train.Diverged) -> None:
            job = ours.get(key(runs[index].flat()))
            # Its row was there before.
            if job is None:
                return
            screen.label = job.label
            if isinstance(result, train.Diverged):
                job.diverged(result)
            else:
                job.done(result)

        train_population(
            [plan.benches.bench(run) for run in runs],
            report=screen.step,
            written=screen.texts,
            resume=folder,
            finished=finished,
        )
        shutil.rmtree(folder, ignore_errors=True)


def unfinished(out: Path, runs: Sequence[RunConfig]) -> Path:
    """Return the folder that a population's training is saved to."""
    # A set of runs has one folder, whatever their order.
    keys = sorted(key(run.flat()) for run in runs)
    name = key({"runs": keys})
    return out / adapters.FOLDER / f"population-{name}.partial"
