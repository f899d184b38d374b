"""The official files of a task: where they lie, and which of them is which split.

A user passes `data_dir`, a folder or a zip archive. The files may lie in it directly,
or in a folder of the name that the official archive has.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lora_jax import bounded_json
from lora_jax.data.examples import require_columns
from lora_jax.data.folders import child, list_folder
from lora_jax.data.read_bytes import MAX_DOCUMENT, open_archive, read_bytes
from lora_jax.data.table import Table, objects_as_table, raise_problems

# Lists and objects in one document: of a few bytes each they would fill all memory.
MAX_BRACKETS = 5_000_000


class Field(NamedTuple):
    """What a field of a JSON object holds: in words, and as a test."""

    expected: str  # in words, for errors
    fits: Callable[[Any], bool]


def task_folder(
    name: str,
    data_dir: str | Path | None,
    expected: str,
    *,
    folders: Sequence[str] = (),
) -> Path:
    """Return the folder with the official files of a task.

    It is `data_dir`, or the first of the folders `name` and `folders` in it. `expected`
    names the files for errors.

    Raises:
        ValueError: there is no `data_dir`, or it is neither a folder nor a zip archive
            that can be read.
        FileNotFoundError: `data_dir` does not exist.
    """
    if data_dir is None:
        raise ValueError(
            f"{name} is read from its official files: "
            f"pass data_dir, a folder with {expected}"
        )
    # A folder or an archive, and nothing else.
    root = Path(data_dir).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"the folder of {name} {str(root)!r} does not exist; "
            f"expected one with {expected}"
        )
    if not root.is_dir():
        archive = open_archive(root)
        if archive is None:
            raise ValueError(
                f"{name}: expected a folder or a zip archive with {expected}, "
                f"got the file {root.name}"
            )
        root = archive
    return _inner_folder(root, (name, *folders))


def _inner_folder(root: Path, folders: Sequence[str]) -> Path:
    # The files may lie deeper, as in the official archive.
    for folder in folders:
        place = child(root, folder)
        if place is not None and place.is_dir():
            return place
    return root


def find_files(name: str, folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """Return the file of each split; `files` names them, relative to the folder.

    Raises:
        FileNotFoundError: files are missing; it names all of them, and those there are.
    """
    # All that is missing in one error.
    paths = {}
    missing = []
    for split, file in files.items():
        path = child(folder, file)
        if path is None:
            missing.append(file)
        else:
            paths[split] = path
    if missing:
        raise FileNotFoundError(
            f"{name} in {folder.name}: expected {', '.join(missing)}, "
            f"got {list_folder(folder)}"
        )
    return paths


def read_json_objects(path: Path, fields: Mapping[str, Field]) -> Table:
    """Return a file that is one JSON list of objects as a table; entries count from 1.

    `fields` are those that every object must have.

    Raises:
        ValueError: the file is no such list, or values do not fit; it names the file
            and its entries.
        OSError: the file cannot be read.
    """
    # Bytes rather than text: JSON finds out its own encoding.
    content = read_bytes(path, limit=MAX_DOCUMENT)
    if content.count(b"{") + content.count(b"[") > MAX_BRACKETS:
        raise ValueError(
            f"{path.name}: expected at most {MAX_BRACKETS:,} lists and objects"
        )
    try:
        objects = bounded_json.parse(content)
    except ValueError as error:
        raise ValueError(
            f"{path.name}: expected JSON, got what is none: {error}"
        ) from None
    if not _are_objects(objects):
        raise ValueError(
            f"{path.name}: expected a JSON list of objects, with {', '.join(fields)}"
        )
    # Fields first: without them there are no values to check.
    rows = range(1, len(objects) + 1)
    table = objects_as_table(path.name, "entry", rows, objects)
    require_columns([table], tuple(fields))
    # Then all misfits of all fields at once.
    problems = []
    for name, field in fields.items():
        problems += table.misfits(name, field.fits, field.expected)
    raise_problems(problems)
    return table


def _are_objects(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(entry, dict) for entry in value)
