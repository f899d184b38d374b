"""Rows and their life: a results file is JSON lines, one row per finished run ("cell").

A row is `{"key", "config", "metrics", ...}`. Its identity is the whole configuration, so a changed setting makes new
rows and never mixes with old ones. The file survives `kill -9`, a full disk and two writers.
What a run was made with is in `provenance.py`; tables and figures are made from rows in `report.py`.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from lora_jax.experiment.provenance import provenance
from lora_jax.results.report import frame, markdown, png, render, summary, write

__all__ = [
    "claim",
    "frame",
    "key",
    "markdown",
    "pending",
    "png",
    "provenance",
    "read",
    "record",
    "render",
    "summary",
    "write",
]

_LOCK_FILES: dict[
    tuple[int, Path], int
] = {}  # (process, lock file) -> its one open descriptor, see `_lock`
_CLAIMED: set[tuple[int, Path, int]] = set()


_LATER = {
    "quantize": "none",
    "offload": False,
    "data_dir": None,
    "bottleneck": 8,
    "prefix_length": 10,
    "top_layers": 2,
    "loss_on": "target",
    "test_sources": 0,
    "new_tokens": 64,
    "beam": 1,
    "length_penalty": 1.0,
    "no_repeat": 0,
}  # settings that came later, at what they were before: a row from then is still a cell's


def key(config: Mapping[str, Any]) -> str:
    """The identity of a configuration: 16 hex digits, blind to the order of fields and to tuple against list.

    Raises ValueError that lists every value JSON cannot hold (NaN and infinity included).
    """
    said = {
        name: value
        for name, value in config.items()
        if name not in _LATER or value != _LATER[name]
    }
    return hashlib.sha256(_json(said, "config").encode()).hexdigest()[:16]


def read(path: str | Path) -> list[dict[str, Any]]:
    """All whole rows of a file, [] when there is none; of rows with one key the first, and no torn last line.

    Raises ValueError naming file and line when any other line is not a row.
    """
    path = Path(path)
    return (
        list(_parse(path, _whole(path.read_bytes())).values()) if path.exists() else []
    )


def record(path: str | Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Append one row with its key, or do nothing when its key is there; the row as the file now has it.

    `row` has `config` and `metrics`, flat from `<split>/<metric>` to a finite number, or None when the run diverged.
    With `examples`, {split: evaluated examples}, `summary` can give a single run its error. Any other JSON may follow.
    Raises ValueError for a malformed row, and OSError when the disk refuses it, the file being left as it was.
    """
    path, row = Path(path), _checked(row)
    line = (_json(row, "row") + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.stem}.append.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = path.read_bytes() if path.exists() else b""
        whole = _whole(data)
        rows = _parse(path, whole)
        if row["key"] not in rows:
            _append(path, whole, line)
    return rows.get(row["key"]) or json.loads(line)


def pending(
    path: str | Path, configs: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The configurations without a row yet, in their order."""
    done = {row["key"] for row in read(path)}
    return [config for config in configs if key(config) not in done]


@contextmanager
def claim(
    path: str | Path, config: Mapping[str, Any], *, wait: bool = False
) -> Iterator[bool]:
    """True when this cell is ours to run until the block ends: nobody else is running it and it has no row.

    Processes started on one results file so share its cells. The kernel gives a dead process's claims back.
    `wait` blocks while another process has the cell: False then says it was finished, True that it was abandoned.
    """
    path = Path(path).absolute()
    offset = int(key(config), 16) >> 1  # file offsets are signed 64-bit numbers
    lock = path.with_name(f".{path.stem}.lock")
    mine = (os.getpid(), lock, offset)
    # The set, because the kernel neither refuses a process its own lock nor makes it wait for it.
    if mine in _CLAIMED or not _lock(lock, offset, wait):
        yield False
        return
    _CLAIMED.add(mine)
    try:
        yield bool(pending(path, [dict(config)]))
    finally:
        _CLAIMED.discard(mine)
        fcntl.lockf(_LOCK_FILES[mine[:2]], fcntl.LOCK_UN, 1, offset)


def _json(value: Any, name: str) -> str:
    problems: list[str] = []
    plain = _plain(value, name, problems)
    if problems:
        expected = "expected values of JSON (text, bool, whole or finite number, None, list, dict), got"
        raise ValueError("\n".join([expected, *problems]))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _plain(value: Any, name: str, problems: list[str]) -> Any:
    match value:
        case Mapping():
            problems += [
                f"{name}: the field name {k!r} is no text"
                for k in value
                if not isinstance(k, str)
            ]
            return {k: _plain(v, f"{name}.{k}", problems) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v, f"{name}[{i}]", problems) for i, v in enumerate(value)]
        case None | str() | int():
            return value
        case float() if math.isfinite(value):
            return value
    problems.append(f"{name}: {type(value).__name__} {value!r}")
    return None


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    config, metrics = row.get("config"), row.get("metrics")
    if not isinstance(config, Mapping) or not isinstance(metrics, Mapping):
        raise ValueError(
            f"a row needs `config` and `metrics`, both dicts; got fields {list(row)}"
        )
    problems = [
        f"name {name!r}"
        for name in metrics
        if not re.fullmatch("[^/]+/[^/]+", str(name))
    ]
    for name, value in metrics.items():
        number = (
            isinstance(value, Real)
            and not isinstance(value, bool)
            and math.isfinite(value)
        )
        problems += [] if number or value is None else [f"{name} = {value!r}"]
    if problems:
        expected = "metrics: expected `<split>/<metric>` with a finite number, or None for a run that diverged; got "
        raise ValueError(expected + ", ".join(problems))
    plain = {
        name: None if value is None else float(value) for name, value in metrics.items()
    }
    return {**row, "key": key(config), "metrics": plain}


def _whole(data: bytes) -> bytes:
    """The data without a torn last line. A line that only lost its line end is whole: no prefix of an object is one."""
    kept = data[: data.rfind(b"\n") + 1]
    try:
        return data + b"\n" if isinstance(json.loads(data[len(kept) :]), dict) else kept
    except ValueError:
        return kept


def _parse(path: Path, data: bytes) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                if (
                    not isinstance(row, dict)
                    or not {"key", "config", "metrics"} <= row.keys()
                ):
                    raise ValueError("expected an object with key, config and metrics")
                if row["key"] != key(row["config"]):
                    raise ValueError(
                        f"its key {row['key']!r} is not that of its config, {key(row['config'])!r}"
                    )
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is not a row: {error}; got {line[:60]!r}"
                ) from error
            rows.setdefault(row["key"], row)
    return rows


def _append(path: Path, whole: bytes, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = min(len(whole), os.fstat(file).st_size)
    line = whole[size:] + line
    try:
        os.ftruncate(file, size)
        if (written := os.write(file, line)) != len(line):
            raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes were written")
        os.fsync(file)
    except OSError as error:
        os.ftruncate(file, size)
        reason = f"the row was not recorded, the others are safe: {error.strerror}"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        os.close(file)


def _lock(lock: Path, offset: int, wait: bool) -> bool:
    place = (os.getpid(), lock)
    if (
        place not in _LOCK_FILES
    ):  # never closed: closing any descriptor of a file drops all the process's locks on it
        lock.parent.mkdir(parents=True, exist_ok=True)
        _LOCK_FILES[place] = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(
            _LOCK_FILES[place],
            fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB),
            1,
            offset,
        )
    except (
        BlockingIOError,
        PermissionError,
    ):  # POSIX allows either for "another process has it"
        return False
    return True
