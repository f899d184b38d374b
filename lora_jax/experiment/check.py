"""What can be wrong with the runs of an experiment, before the first one starts."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_jax import data, generation, methods, models, quant, train
from lora_jax.experiment.config import (
    DEFAULT,
    NO_METHOD,
    DataConfig,
    RunConfig,
    method_defaults,
    part_of,
)
from lora_jax.experiment.workbench import Workbenches
from lora_jax.nn import precision

# The lowest value of each whole-number setting, where 0 may stand for "all".
LOWEST = {
    "rows": 0,
    "validation_rows": 0,
    "test_sources": 0,
    "max_length": 0,
    "seed": 0,
}
# The settings of options whose names are other words.
SWEPT_NAMES = {"targets": "targets"}
ZERO_IS_ALL = ("rows", "validation_rows", "test_sources", "max_length")


def resolved(runs: Sequence[RunConfig], benches: Workbenches) -> list[RunConfig]:
    """Return the runs with what `auto` means here, and where model and data come from.

    Raises:
        ValueError: all that is wrong with the settings, in one message; or what is
            wrong with a model or its data.
    """
    check_settings(runs)
    # What `auto` means belongs to a row's identity, for it changes the numbers.
    concrete = [with_dtype(run) for run in runs]
    # Once a model: its source may have to be asked of a hub.
    names = {run.model for run in concrete}
    sources = {name: models.source(name) for name in names}
    complete = []
    for run in concrete:
        # The task itself is kept by `benches`: this costs nothing twice.
        task = benches.task(run)
        effective = _without_idle_settings(run, task)
        complete.append(
            replace(
                effective,
                model_source=sources[run.model],
                data_source=task.source,
            )
        )
    return complete


def check_settings(runs: Sequence[RunConfig]) -> None:
    """Check what can be known without model and data.

    Raises:
        ValueError: everything that is wrong with any run, in one message.
    """
    problems: dict[str, None] = {}  # in order, each once
    for run in runs:
        for problem in _problems(with_dtype(run)):
            problems[problem] = None
    raise_all(*problems)


def check_options(run: RunConfig, options: Any) -> None:
    """Check a run, and the values that an experiment's own options give its settings.

    What has to be asked of a hub comes later: nobody waits for it to learn of a typo.

    Raises:
        ValueError: everything that is wrong, in one message.
    """
    # Tasks stand in the place of the run's own data, which then nobody reads.
    tasks = getattr(options, "tasks", ())
    runs = [run.changed(data=task) for task in tasks] or [run]
    first = runs[0]
    for option, values in vars(options).items():
        # `ranks` are values of `rank`; what is single is the run's already.
        name = SWEPT_NAMES.get(option) or option.removesuffix("s")
        is_list = isinstance(values, tuple) and option != "tasks"
        if not is_list or not _is_setting(first, name):
            continue
        for value in values:
            runs.append(first.changed(**{name: value}))
    check_settings(runs)


def writable_folder(folder: Path) -> None:
    """Make the folder.

    Raises:
        OSError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out: expected a folder that can be written, got {folder} "
            f"({error.strerror})"
        ) from None
    # A folder that is there already may be somebody else's.
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"--out: expected a folder that can be written, got {folder}"
        )


def formats(names: Sequence[str], candidates: Iterable[str] = quant.FORMATS) -> None:
    """Check the names of formats.

    Raises:
        ValueError: there are none, or one is not of the candidates.
    """
    raise_all(*name_problems("formats", names, candidates))


def name_problems(
    option: str, names: Sequence[str], candidates: Iterable[str]
) -> list[str]:
    """Return what is wrong with an option of names: at least one, all candidates."""
    known = list(candidates)
    unknown = [name for name in names if name not in known]
    if names and not unknown:
        return []
    # No name at all would be an experiment of nothing.
    listed = ", ".join(unknown) or "none"
    return [f"{option}: expected some of {', '.join(known)}, got {listed}"]


def block_problems(blocks: Iterable[int]) -> list[str]:
    """Return which of these are no block sizes of a quantized matrix."""
    problems = []
    for block in blocks:
        if block not in quant.BLOCKS:
            problems.append(
                f"blocks: expected powers of two from 32 to 4096, got {block}"
            )
    return problems


def count_problems(options: Any, names: Iterable[str]) -> list[str]:
    """Return which of these options, fields of a dataclass, are below 1."""
    problems = []
    for name in names:
        count = getattr(options, name)
        if count < 1:
            problems.append(f"{name}: expected 1 or more, got {count}")
    return problems


def raise_all(*problems: str) -> None:
    """Raise one ValueError with all problems, if there are any."""
    message = "; ".join(problems)
    if message:
        raise ValueError(message)


def _is_setting(run: RunConfig, name: str) -> bool:
    return part_of(name) is not None or name in method_defaults(run.method)


def with_dtype(run: RunConfig) -> RunConfig:
    """Return the run with what `auto` means on this machine."""
    if run.train.compute_dtype != "auto":
        return run
    return run.changed(compute=precision.fast_dtype())


def _without_idle_settings(run: RunConfig, task: data.Task) -> RunConfig:
    """The run with its defaults where a setting does nothing for the task.

    A row's identity is its settings: two runs that do the same are one.
    """
    idle: dict[str, Any] = {}
    decode = run.decode
    if not task.generates:
        # Labels are not written, and have no tokens that a loss could be of.
        decode = generation.Decoding()
        defaults = DataConfig()
        idle["loss_on"] = defaults.loss_on
        idle["test_sources"] = defaults.test_sources
    # What such methods train is stored as the model is.
    if run.method in methods.WITHOUT_ADAPTERS:
        idle["adapter_dtype"] = DEFAULT.adapter_dtype
    if not decode.no_repeat:
        idle["no_repeat_within"] = generation.Decoding().no_repeat_within
    # A regression's loss is a squared error.
    if not task.generates and not task.labels:
        idle["label_smoothing"] = train.TrainConfig().label_smoothing
    return replace(run, decode=decode).changed(**idle)


def _problems(run: RunConfig) -> list[str]:
    problems = []
    # Under the names that its flags have.
    flat = run.flat()
    for name, lowest in LOWEST.items():
        if flat[name] < lowest:
            meaning = " (0 is all)" if name in ZERO_IS_ALL else ""
            problems.append(
                f"{name}: expected {lowest} or more{meaning}, got {flat[name]}"
            )
    problems += [f"data: {text}" for text in _problem(_name_check(run))]
    problems += _folder_problems(run)
    # Each part of a run knows its own bounds.
    problems += _problem(lambda: train.check(run.train))
    problems += _problem(lambda: generation.check(run.decode))
    if run.method != NO_METHOD:
        problems += _problem(lambda: _method(run))
    return problems


def _method(run: RunConfig) -> methods.Method:
    method = methods.make(run.method, **run.method_options())
    return methods.with_adapter_dtype(method, run.adapter_dtype)


def _name_check(run: RunConfig) -> Callable[[], object]:
    return lambda: data.check_name(run.data.data)


def _folder_problems(run: RunConfig) -> list[str]:
    """A folder of official files goes with the tasks that have such files."""
    task = data.base_name(run.data.data)
    glue = data.GLUE_TASKS
    official = data.DATA_DIR_TASKS
    problems = []
    # Two flags for one setting: rows of older versions have either.
    if run.data.glue_dir and run.data.data_dir:
        problems.append(
            "data_dir and glue_dir mean the same: expected one of them, got "
            f"{run.data.data_dir} and {run.data.glue_dir}"
        )
    if run.data.glue_dir and task not in glue:
        problems.append(
            f"glue_dir: goes with {', '.join(glue)}, but data is {run.data.data!r}"
        )
    if run.data.data_dir and task not in official:
        problems.append(
            f"data_dir: goes with {', '.join(official)}, but data is {run.data.data!r}"
        )
    return problems + _own_file_problems(run)


def _own_file_problems(run: RunConfig) -> list[str]:
    """What says how a user's own file is read goes with such a file alone."""
    names = [f"{name}_column" for name in run.data.columns]
    if run.data.label_kind != DataConfig().label_kind:
        names.append("label_kind")
    # A task of ours has names and labels of its own.
    if not names or data.base_name(run.data.data) not in data.TASKS:
        return []
    return [
        f"{', '.join(names)}: for a file of your own, but data is {run.data.data!r}"
    ]


def _problem(check: Callable[[], object]) -> list[str]:
    """The message of the error that a check raises, if it does."""
    try:
        check()
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    return []
