"""Tasks by name or from a user's file, their encoding, and the batches a model learns from."""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lora_jax.data import files, glue, rotten_tomatoes, tiny
from lora_jax.data.batching import Batch, batches, padding, widths
from lora_jax.data.encoding import Encoded, encode
from lora_jax.data.tables import FORMATS
from lora_jax.data.tasks import Examples, Task, subset

__all__ = ["TASKS", "Batch", "Encoded", "Examples", "Task", "batches", "encode", "load", "padding", "subset", "widths"]

TASKS: dict[str, Callable[..., Task]] = {
    "rotten-tomatoes": rotten_tomatoes.load,
    **{name: partial(glue.load, name) for name in glue.SPECS},
    "tiny": tiny.load,
}


def load(name_or_file: str | Path, *, glue_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """A task by its name in `TASKS`, or from a file or folder of the user's own (see `files.load`).

    `glue_dir` is where GLUE lies when it is not to come from the hub; other tasks leave it alone. `split_seed` draws
    another split where the task has none of its own. Raises ValueError on an unknown name, with the names there are,
    FileNotFoundError when a path does not exist, and whatever the task's own `load` says about its data.
    """
    name = str(name_or_file)
    if name in glue.SPECS:
        return TASKS[name](glue_dir=glue_dir, split_seed=split_seed)
    if name in TASKS:
        return TASKS[name](split_seed=split_seed)
    path = Path(name_or_file).expanduser()
    if path.exists():
        return files.load(path, split_seed=split_seed)
    if isinstance(name_or_file, Path) or "/" in name or path.suffix.lower() in FORMATS:
        raise FileNotFoundError(f"the data file {name!r} does not exist")
    close = difflib.get_close_matches(name.lower(), TASKS, 2)
    hint = f"; is {' or '.join(close)} meant?" if close else ""
    raise ValueError(f"expected a file, a folder or a task out of {', '.join(TASKS)}; got {name!r}{hint}")
