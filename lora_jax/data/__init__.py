"""Tasks by name or from a user's file, their encoding, and the batches a model learns from."""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lora_jax.data import text_pairs
from lora_jax.data.batches import Batch, batches, padding, widths
from lora_jax.data.read_table import FORMATS
from lora_jax.data.task import Examples, Task, references, some, subset
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
from lora_jax.data.tokenize import SEPARATOR, Encoded, encode, encode_pairs, prompts

__all__ = [
    "OFFICIAL",
    "SEPARATOR",
    "TASKS",
    "Batch",
    "Encoded",
    "Examples",
    "Task",
    "batches",
    "encode",
    "encode_pairs",
    "load",
    "padding",
    "prompts",
    "references",
    "some",
    "subset",
    "widths",
]

TEXT = "-text"
# Tasks of official files, by name; all of them generate.
OFFICIAL: dict[str, Callable[..., Task]] = {
    "e2e": e2e.load,
    "webnlg": webnlg.load,
    "dart": dart.load,
    "wikisql": wikisql.load,
    "samsum": samsum.load,
}
TASKS: dict[str, Callable[..., Task]] = {
    "rotten-tomatoes": rotten_tomatoes.load,
    **{name: partial(glue.load, name) for name in glue.SPECS},
    **OFFICIAL,
    "tiny": tiny.load,
    "tiny-nlg": tiny.load_nlg,
}
LABELLED = frozenset({"rotten-tomatoes", *glue.SPECS, "tiny"})


def load(
    name_or_file: str | Path,
    *,
    data_dir: str | Path | None = None,
    glue_dir: str | Path | None = None,
    split_seed: int = 0,
) -> Task:
    """A task by its name in `TASKS`, or from a file or folder of the user's own (see `files.load`). With `-text` after the name of
    a classification, `mnli-text`, the class is a word to be written by a language model.

    `data_dir`, or `glue_dir`, is where the official files of GLUE or of a task in `OFFICIAL` lie; GLUE and e2e come from
    the hub without it. `split_seed` draws another split where the task has none of its own. Raises ValueError on an
    unknown name, with the names there are, and on a `data_dir` for another task, FileNotFoundError when a path does not
    exist, and whatever the task's own `load` says about its data.
    """
    if data_dir and glue_dir:
        raise ValueError(
            f"data_dir and glue_dir mean the same; expected one of them, got {data_dir} and {glue_dir}"
        )
    name, official = str(name_or_file), data_dir or glue_dir or None
    if name in glue.SPECS:
        return TASKS[name](glue_dir=official, split_seed=split_seed)
    if name in OFFICIAL:
        return OFFICIAL[name](data_dir=official, split_seed=split_seed)
    path = Path(name_or_file).expanduser()
    if official and (name in TASKS or path.exists()):
        raise ValueError(
            f"data_dir goes with {', '.join((*glue.SPECS, *OFFICIAL))}; {name!r} has no official files"
        )
    if name in TASKS:
        return TASKS[name](split_seed=split_seed)
    if name.endswith(TEXT) and name.removesuffix(TEXT) in TASKS:
        return text_pairs.worded(
            load(name.removesuffix(TEXT), glue_dir=official, split_seed=split_seed)
        )
    if path.exists():
        return user_files.load(path, split_seed=split_seed)
    if isinstance(name_or_file, Path) or "/" in name or path.suffix.lower() in FORMATS:
        raise FileNotFoundError(f"the data file {name!r} does not exist")
    close = difflib.get_close_matches(name.lower(), TASKS, 2)
    hint = f"; is {' or '.join(close)} meant?" if close else ""
    raise ValueError(
        f"expected a file, a folder or a task out of {', '.join(TASKS)}; got {name!r}{hint}"
    )
