"""A hash of a model's files, so that rows of results tell two models in one folder apart.

Whole files are read: a checkpoint may differ from another in a few numbers of its
middle. Gigabytes take seconds, so the hash of each file is kept in the cache folder
until the file's size or time changes.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from lora_jax import download

FILE = "fingerprints.json"  # in the cache folder


def fingerprint(files: Sequence[Path]) -> str:
    """Return 12 hex digits of the hash of the names and contents of files."""
    known = _read_known()
    digest = hashlib.sha256()
    entries = {}
    for file in sorted(files):
        entry = _entry(file, known)
        entries[str(file.resolve())] = entry
        digest.update(f"{file.name} {entry[-1]}\n".encode())
    if entries.items() - known.items():
        _write_known({**known, **entries})
    return digest.hexdigest()[:12]


def _entry(file: Path, known: dict[str, tuple]) -> tuple:
    """The file's size, its time and place on disk, and the hash of its content."""
    status = file.stat()
    mark = (status.st_size, status.st_mtime_ns, status.st_ino)
    entry = known.get(str(file.resolve()))
    # The same file at the same time: what was read of it holds.
    if entry is not None and entry[:-1] == mark:
        return entry
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return (*mark, content)


def _read_known() -> dict[str, tuple]:
    # A cache: whatever is wrong with it, the files are read again.
    try:
        entries = json.loads((download.cache_folder() / FILE).read_bytes())
        known = {path: tuple(entry) for path, entry in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
    return {path: entry for path, entry in known.items() if len(entry) == 4}


def _write_known(entries: dict[str, tuple]) -> None:
    path = download.cache_folder() / FILE
    temporary = path.with_name(f"{FILE}.{os.getpid()}")
    # A full disk or a folder that cannot be written costs time, no more.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries))
        temporary.replace(path)
