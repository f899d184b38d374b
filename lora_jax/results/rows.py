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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from lora_jax import bounded_json
from lora_jax.results import locks
from lora_jax.results.canonical_json import to_json

Row = dict[str, Any]
Config = Mapping[str, Any]

FIELDS = {"key", "config", "metrics"}  # that no row lacks
METRIC_NAME = re.compile("[^/]+/[^/]+")  # `<split>/<metric>`
KEY_DIGITS = 16  # hexadecimal, 64 bits
QUOTED_BYTES = 60  # of a bad line, in the error's message
PROBLEMS_LISTED = 5  # of a row: one wrong object can have hundreds


def key(config: Config) -> str:
    """Return the identity of a configuration: 16 hex digits of its hash.

    The order of fields does not matter, nor does tuple against list.

    Raises:
        ValueError: lists every value that JSON cannot hold (NaN and infinity included).
    """
    text = to_json(config, "config")
    digest = hashlib.sha256(text.encode())
    return digest.hexdigest()[:KEY_DIGITS]


def no_problems(_row: Row) -> list[str]:
    """Find nothing wrong with a row."""
    return []


class RowFile(NamedTuple):
    """A file of rows, whose identity is `key` of their configurations.

    Keys are computed anew when the file is read, so that a better identity makes no row
    an orphan. `problems` says what is wrong with a row that was read.
    """

    path: Path
    key: Callable[[Config], str] = key
    problems: Callable[[Row], Sequence[str]] = no_problems

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
        # Checked before the file or its folder is touched.
        checked = self._checked(row)
        text = to_json(checked, "row")
        line = f"{text}\n".encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Nobody may append between our reading and our writing.
        lock = self.path.with_name(f".{self.path.stem}.append.lock")
        with locks.exclusive(lock):
            content = b""
            if self.path.exists():
                content = self.path.read_bytes()
            complete = _without_torn_line(content)
            rows = self._parse(complete)
            key_of_row = checked["key"]
            if key_of_row in rows:
                return rows[key_of_row]
            _append(self.path, complete, line)
        # As the file has it: tuples have become lists.
        return json.loads(line)

    def pending(self, configs: Iterable[Config]) -> list[Config]:
        """Return the configurations without a row yet, in their order."""
        done = set()
        for row in self.read():
            done.add(row["key"])
        return [config for config in configs if self.key(config) not in done]

    @contextmanager
    def claim(self, config: Config, *, wait: bool = False) -> Iterator[bool]:
        """Claim a run for this process until the block ends.

        Yields False if another process has it or it already has a row. Processes
        started on one file share its runs. `wait` blocks while another process has the
        run: False then says that it was finished, True that it was abandoned.
        """
        path = self.path.absolute()
        # Each run has a byte of the lock file. Offsets are signed 64-bit numbers: a key
        # has one bit too many.
        offset = int(self.key(config), 16) >> 1
        lock = path.with_name(f".{path.stem}.lock")
        with locks.byte_lock(lock, offset, wait=wait) as is_held:
            # Its row may have been written while we waited.
            is_pending = bool(self.pending([config]))
            yield is_held and is_pending

    def _checked(self, row: Mapping[str, Any]) -> Row:
        config = row.get("config")
        metrics = row.get("metrics")
        has_config = isinstance(config, Mapping)
        has_metrics = isinstance(metrics, Mapping)
        if not has_config or not has_metrics:
            fields = list(row)
            raise ValueError(
                f"a row needs `config` and `metrics`, both dicts; got fields {fields}"
            )
        checked = dict(row)
        checked["key"] = self.key(config)
        checked["metrics"] = _checked_metrics(metrics)
        return checked

    def _parse(self, content: bytes) -> dict[str, Row]:
        """The rows by key. Raises a ValueError that names the line that is no row."""
        rows: dict[str, Row] = {}
        for number, line in enumerate(content.split(b"\n"), start=1):
            if not line.strip():
                continue
            place = f"{self.path}, line {number}"
            try:
                row = _parse_row(line)
            except ValueError as error:
                start = line[:QUOTED_BYTES]
                raise ValueError(
                    f"{place} is not a row: {error}; got {start!r}"
                ) from error
            # Before the key, which takes a sound configuration.
            if problems := self.problems(row):
                listed = "; ".join(problems[:PROBLEMS_LISTED])
                raise ValueError(
                    f"{place} is not a row of this experiment: {listed}. Mend the line "
                    "or delete it; the file was not changed"
                )
            row["key"] = self.key(row["config"])
            # Of rows with one key the first counts.
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
    row = bounded_json.parse(line)
    # Another program, or a merge, may have written anything.
    is_object = isinstance(row, dict)
    if not is_object or not row.keys() >= FIELDS:
        raise ValueError("expected an object with key, config and metrics")
    for name in ("config", "metrics"):
        value = row[name]
        if not isinstance(value, dict):
            raise ValueError(f"expected {name} to be an object, got {value!r}")
    # Half of a pair, as \ud800, is no character: no page could be written with it.
    json.dumps(row, ensure_ascii=False).encode()
    row["metrics"] = _checked_metrics(row["metrics"])
    return row


def _checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics as floats. Raises one ValueError that lists all that are wrong."""
    problems = []
    plain: dict[str, float | None] = {}
    for name, value in metrics.items():
        if not METRIC_NAME.fullmatch(str(name)):
            problems.append(f"name {name!r}")
        # A run that diverged is a result too.
        if value is None:
            plain[name] = None
        elif _is_finite(value):
            plain[name] = float(value)
        else:
            problems.append(f"{name} = {value!r}")
    if problems:
        listed = ", ".join(problems)
        raise ValueError(
            "metrics: expected `<split>/<metric>` with a finite number, or None for a "
            f"run that diverged; got {listed}"
        )
    return plain


def _is_finite(value: Any) -> bool:
    # A bool is a number to Python, but no score.
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    # Beyond the largest float a whole number cannot be asked whether it is finite.
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _without_torn_line(content: bytes) -> bytes:
    """The content without a torn last line.

    A line that only lost its line end is complete: no prefix of an object is one.
    """
    # After the last line end, or from the start where there is none.
    start = content.rfind(b"\n") + 1
    complete = content[:start]
    try:
        last = bounded_json.parse(content[start:])
    except ValueError:
        return complete
    # The beginning of a row can be a value of JSON, but no object.
    if isinstance(last, dict):
        return content + b"\n"
    return complete


def _append(path: Path, complete: bytes, line: bytes) -> None:
    """Write the line after the complete ones, or leave the file as it was."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = min(len(complete), os.fstat(file).st_size)
    # The last line may have lost its line end, which is then written too.
    missing = complete[size:] + line
    try:
        # A torn line goes.
        os.ftruncate(file, size)
        # One call, so that a kill tears at most this line.
        written = os.write(file, missing)
        size_of_missing = len(missing)
        if written != size_of_missing:
            message = f"{written} of {size_of_missing} bytes were written"
            raise OSError(errno.ENOSPC, message)
        # On the disk before the run counts as finished.
        os.fsync(file)
    except OSError as error:
        # What was written of the line goes.
        os.ftruncate(file, size)
        cause = error.strerror or error
        reason = f"the row was not recorded, the others are safe: {cause}"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        os.close(file)
