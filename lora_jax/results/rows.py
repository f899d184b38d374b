"""Rows and their life: a results file is JSON lines, one row per finished run.

A row is `{"key", "config", "metrics", ...}`. Its identity is its configuration, so a
changed setting makes new rows and never mixes with old ones. The file survives
`kill -9`, a full disk and two writers. What a row was made with is recorded by whoever
makes it; tables and figures are made from rows in `report.py`.
"""

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from lora_jax.results import locks

Row = dict[str, Any]
Config = Mapping[str, Any]


def key(config: Config) -> str:
    """Return the identity of a configuration: 16 hex digits of its hash.

    The order of fields does not matter, nor does tuple against list.

    Raises:
        ValueError: lists every value that JSON cannot hold (NaN and infinity included).
    """
    return hashlib.sha256(_to_json(config, "config").encode()).hexdigest()[:16]


class RowFile(NamedTuple):
    """A file of rows. `key` gives a configuration's identity; keys are made anew when
    the file is read, so that a better identity makes no row an orphan."""

    path: Path
    key: Callable[[Config], str] = key

    def read(self) -> list[Row]:
        """Return all complete rows; none when there is no file.

        Of rows with one key the first counts. A torn last line is no row.

        Raises:
            ValueError: names file and line of any other line that is not a row.
        """
        if not self.path.exists():
            return []
        content = _without_torn_line(self.path.read_bytes())
        return list(self._parse(content).values())

    def record(self, row: Mapping[str, Any]) -> Row:
        """Append one row with its key, unless its key is there; return the file's row.

        `row` has `config` and `metrics`, flat from `<split>/<metric>` to a finite
        number, or None when the run diverged. With `examples`, {split: evaluated
        examples}, a single run can be given its error. Any other JSON may follow.

        Raises:
            ValueError: the row is malformed.
            OSError: the disk refuses the row; the file is left as it was.
        """
        checked = self._checked(row)
        line = (_to_json(checked, "row") + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self.path.with_name(f".{self.path.stem}.append.lock")):
            content = self.path.read_bytes() if self.path.exists() else b""
            complete = _without_torn_line(content)
            rows = self._parse(complete)
            if checked["key"] not in rows:
                _append(self.path, complete, line)
        return rows.get(checked["key"]) or json.loads(line)

    def pending(self, configs: Iterable[Config]) -> list[Config]:
        """Return the configurations without a row yet, in their order."""
        done = {row["key"] for row in self.read()}
        return [config for config in configs if self.key(config) not in done]

    @contextmanager
    def claim(self, config: Config, *, wait: bool = False) -> Iterator[bool]:
        """Claim a run for this process until the block ends.

        Yields False if another process has it or it already has a row. Processes
        started on one file share its runs. `wait` blocks while another process has the
        run: False then says that it was finished, True that it was abandoned.
        """
        path = self.path.absolute()
        offset = int(self.key(config), 16) >> 1  # offsets are signed 64-bit numbers
        lock = path.with_name(f".{path.stem}.lock")
        with locks.byte_lock(lock, offset, wait=wait) as is_held:
            yield is_held and bool(self.pending([config]))

    def _checked(self, row: Mapping[str, Any]) -> Row:
        config = row.get("config")
        metrics = row.get("metrics")
        if not isinstance(config, Mapping) or not isinstance(metrics, Mapping):
            raise ValueError(
                "a row needs `config` and `metrics`, both dicts; "
                f"got fields {list(row)}"
            )
        return {**row, "key": self.key(config), "metrics": _checked_metrics(metrics)}

    def _parse(self, content: bytes) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for number, line in enumerate(content.split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                row = _parse_row(line)
                row["key"] = self.key(row["config"])
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{self.path}, line {number} is not a row: {error}; "
                    f"got {line[:60]!r}"
                ) from error
            rows.setdefault(row["key"], row)
        return rows


def read(path: str | Path) -> list[Row]:
    """Return the rows of a file, see `RowFile.read`."""
    return RowFile(Path(path)).read()


def record(path: str | Path, row: Mapping[str, Any]) -> Row:
    """Append a row to a file, see `RowFile.record`."""
    return RowFile(Path(path)).record(row)


def pending(path: str | Path, configs: Iterable[Config]) -> list[Config]:
    """Return the configurations without a row, see `RowFile.pending`."""
    return RowFile(Path(path)).pending(configs)


def claim(
    path: str | Path, config: Config, *, wait: bool = False
) -> AbstractContextManager[bool]:
    """Claim the run of a configuration, see `RowFile.claim`."""
    return RowFile(Path(path)).claim(config, wait=wait)


def _parse_row(line: bytes) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict) or not {"key", "config", "metrics"} <= row.keys():
        raise ValueError("expected an object with key, config and metrics")
    for name in ("config", "metrics"):
        if not isinstance(row[name], dict):
            raise ValueError(f"expected {name} to be an object, got {row[name]!r}")
    _checked_metrics(row["metrics"])
    return row


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics as floats. Raises one ValueError with every one that is wrong."""
    problems = []
    plain: dict[str, float | None] = {}
    for name, value in metrics.items():
        if not re.fullmatch("[^/]+/[^/]+", str(name)):
            problems.append(f"name {name!r}")
        if value is None:
            plain[name] = None
        elif _is_finite(value):
            plain[name] = float(value)
        else:
            problems.append(f"{name} = {value!r}")
    if problems:
        raise ValueError(
            "metrics: expected `<split>/<metric>` with a finite number, or None for a "
            f"run that diverged; got {', '.join(problems)}"
        )
    return plain


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _to_json(value: Any, name: str) -> str:
    problems: list[str] = []
    plain = _plain(value, name, problems)
    if problems:
        expected = (
            "expected values of JSON (text, bool, whole or finite number, None, list, "
            "dict), got"
        )
        raise ValueError("\n".join([expected, *problems]))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _plain(value: Any, name: str, problems: list[str]) -> Any:
    """The value as JSON has it; what is wrong is appended to `problems` by its path."""
    match value:
        case Mapping():
            plain = {}
            for field, item in value.items():
                if not isinstance(field, str):
                    problems.append(f"{name}: the field name {field!r} is no text")
                plain[field] = _plain(item, f"{name}.{field}", problems)
            return plain
        case list() | tuple():
            items = enumerate(value)
            return [_plain(item, f"{name}[{i}]", problems) for i, item in items]
        case None | str() | int():
            return value
        case float() if math.isfinite(value):
            return value
    problems.append(f"{name}: {type(value).__name__} {value!r}")
    return None


def _without_torn_line(content: bytes) -> bytes:
    """The content without a torn last line.

    A line that only lost its line end is complete: no prefix of an object is one.
    """
    complete = content[: content.rfind(b"\n") + 1]
    try:
        last = json.loads(content[len(complete) :])
    except ValueError:
        return complete
    return content + b"\n" if isinstance(last, dict) else complete


def _append(path: Path, complete: bytes, line: bytes) -> None:
    """Write the line after the complete ones, or leave the file as it was."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = min(len(complete), os.fstat(file).st_size)
    missing = complete[size:] + line  # the last line may have lost its line end
    try:
        os.ftruncate(file, size)
        written = os.write(file, missing)
        if written != len(missing):
            raise OSError(
                errno.ENOSPC, f"{written} of {len(missing)} bytes were written"
            )
        os.fsync(file)
    except OSError as error:
        os.ftruncate(file, size)
        reason = (
            f"the row was not recorded, the others are safe: {error.strerror or error}"
        )
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        os.close(file)
