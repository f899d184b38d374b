"""Tasks by name, or from a user's own file or folder."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

from lora_jax.data.labels import LabelKind
from lora_jax.data.read_table import FORMATS
from lora_jax.data.task import Task
from lora_jax.data.tasks import (
    dart,
    e2e,
    glue,
    rotten_tomatoes,
    samsum,
    tiny,
    user_files,
    webnlg,
    wikisql,
)
from lora_jax.data.text_pairs import classification_as_text

TEXT_SUFFIX = "-text"
"""After the name of a classification: its classes become words to be written."""

# Characters of a name that an error shows.
MAX_NAME = 200

# Families of tasks, for checks of settings before anything is loaded.
GLUE_TASKS = tuple(glue.SPECS)
GENERATION_TASKS = ("e2e", "webnlg", "dart", "wikisql", "samsum")
"""Tasks that generate text from official files."""

DATA_DIR_TASKS = (*GLUE_TASKS, *GENERATION_TASKS)
"""Tasks that can be read from official files in `data_dir`."""

LABELED_TASKS = frozenset(["rotten-tomatoes", "tiny", *GLUE_TASKS])
"""Classifications and regressions."""

# One line a task: adding one is a module of `tasks/` and a line here.
TASKS: dict[str, Callable[..., Task]] = {
    "rotten-tomatoes": rotten_tomatoes.load,
    **{name: partial(glue.load, name) for name in GLUE_TASKS},
    "e2e": e2e.load,
    "webnlg": webnlg.load,
    "dart": dart.load,
    "wikisql": wikisql.load,
    "samsum": samsum.load,
    "tiny": tiny.load,
    "tiny-nlg": tiny.load_nlg,
}
"""The loader of each task; those of `DATA_DIR_TASKS` take `data_dir`."""


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    label_kind: LabelKind = "auto",
) -> Task:
    """Return a task by its name in `TASKS`, or from a user's file or folder.

    A name with `-text` after it, as `mnli-text`, is the classification as a task that
    generates. `tasks.user_files` says what a user's file holds, and what `columns` and
    `label_kind` are for it. `data_dir` is where the official files of one of
    `DATA_DIR_TASKS` lie; without it GLUE and e2e come from the hub.

    Raises:
        ValueError: the name is unknown, or an option goes with another task.
        FileNotFoundError: a path does not exist.
        Exception: whatever the task's own loader says about its data.
    """
    name = str(name_or_path)
    path = _existing(Path(name_or_path).expanduser())
    is_named = base_name(name) in TASKS
    if is_named and (columns or label_kind != "auto"):
        raise ValueError(f"columns and label_kind go with your own file, not {name!r}")
    takes_folder = base_name(name) in DATA_DIR_TASKS
    if data_dir and not takes_folder and (is_named or path is not None):
        raise ValueError(
            f"data_dir goes with {', '.join(DATA_DIR_TASKS)}; "
            f"{name!r} has no official files"
        )
    # Names come before files: a file called `e2e` is read as `./e2e`.
    if is_named:
        # An empty string, as from a shell, is no folder.
        return _named_task(name, data_dir or None)
    # A file or folder of the user's own.
    if path is not None:
        return user_files.load(path, columns=columns, label_kind=label_kind)
    _raise_unknown(name, is_path=isinstance(name_or_path, Path))


def _named_task(name: str, data_dir: str | Path | None) -> Task:
    # `mnli-text` is `mnli`, its classes written as words.
    base = base_name(name)
    options = {"data_dir": data_dir} if base in DATA_DIR_TASKS else {}
    if base != name:
        return classification_as_text(TASKS[base](**options))
    return TASKS[name](**options)


def _existing(path: Path) -> Path | None:
    """The path, None where nothing is."""
    # A name that is too long for any file is an error of the system's own.
    try:
        return path if path.exists() else None
    except OSError:
        return None


def check_name(name: str) -> None:
    """Check that there is such a task, file or folder, without loading anything.

    Raises:
        ValueError: the name is unknown; lists those there are.
        FileNotFoundError: a path does not exist.
    """
    if base_name(name) not in TASKS and not Path(name).expanduser().exists():
        _raise_unknown(name, is_path=False)


def base_name(name: str) -> str:
    """Return the name of a task without the suffix `-text`."""
    return name.removesuffix(TEXT_SUFFIX)


def _raise_unknown(name: str, *, is_path: bool) -> NoReturn:
    is_file = is_path or "/" in name or Path(name).suffix.lower() in FORMATS
    # A name of thousands of characters is nothing to print.
    if len(name) > MAX_NAME:
        name = f"{name[:MAX_NAME]}..."
    # What looks like a path was meant as one, so the names of tasks would not help.
    if is_file:
        raise FileNotFoundError(f"the data file {name!r} does not exist")
    # Anything else was meant as a name.
    close = difflib.get_close_matches(name.lower(), TASKS, 2)
    hint = f"; is {' or '.join(close)} meant?" if close else ""
    raise ValueError(
        f"expected a file, a folder or a task out of {', '.join(TASKS)}; "
        f"got {name!r}{hint}"
    )
