"""Other data, where that of a paper is neither supplied nor downloadable.

Each function says on stderr that it takes something else, so that nobody mistakes the
rows for those of the paper's data.
"""

import sys
from collections.abc import Sequence

from lora_jax import data
from lora_jax.experiment import presets
from lora_jax.experiment.config import RunConfig

# What needs nobody's files: for a pretrained model, and for the tiny random one.
FILM_REVIEWS = ("rotten-tomatoes-text", "the opinion of a film review in a word")
RESTAURANTS = ("tiny-nlg", "made-up restaurants")


def available(run: RunConfig) -> RunConfig:
    """Fall back to a bundled task when E2E is neither supplied nor downloadable.

    Raises:
        ValueError: the data has labels, and is no text to be generated.
    """
    task = run.data.data
    if task in data.LABELED_TASKS:
        as_text = f"{task}{data.TEXT_SUFFIX}"
        raise ValueError(
            f"--data: {task} has labels; --data {as_text} has them as words to be "
            "written"
        )
    # What somebody named must be there: the workbench says so if it is not.
    if task != "e2e" or run.data.data_dir:
        return run
    try:
        data.load("e2e")
    except ConnectionError as error:  # the hub is out of reach
        print(error, file=sys.stderr)
        return run.changed(data=replacement(run))
    return run


def replacement(run: RunConfig) -> str:
    """Return a task that needs nobody's files, for a model of the run's size."""
    is_tiny = run.model == presets.NLG_SMOKE.model
    task, meaning = RESTAURANTS if is_tiny else FILM_REVIEWS
    print(f"Instead: {task}, {meaning}", file=sys.stderr)
    return task


def runs_of_tasks(
    run: RunConfig, tasks: Sequence[str], *, required: bool
) -> list[RunConfig]:
    """Return the run with each task whose data is there, in the run's data folder.

    Unless the tasks are `required`, those without data are named on stderr and left
    out; a replacement is taken where that leaves none.

    Raises:
        ValueError, OSError: the data of a required task is wrong or missing, or a data
            folder was named that has none of the tasks.
    """
    folder = run.data.data_dir or run.data.glue_dir
    runs = []
    problems = []
    for task in tasks:
        try:
            data.load(task, data_dir=folder)
        except (OSError, ValueError) as error:
            if required:
                raise
            problems.append(f"{task} is left out: {error}")
        else:
            runs.append(run.changed(data=task))
    # Whoever names a folder expects something of it.
    if not runs and problems and run.data.data_dir:
        heading = f"--data-dir {run.data.data_dir} has none of the tasks:"
        raise ValueError("\n  ".join([heading, *problems]))
    for problem in problems:
        print(problem, file=sys.stderr)
    if not runs and problems:
        # The folder belongs to the tasks that were left out.
        return [run.changed(data=replacement(run), data_dir=None)]
    return runs
