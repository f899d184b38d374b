"""Reads one table of text (CSV, TSV, JSON lines, Parquet), keeping the number every row has in its file."""

import csv
import hashlib
import json
import reprlib
from collections.abc import Callable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import pandas as pd

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


class Table(NamedTuple):
    """Columns of equal length, and for each entry the line of the file (or the row, see `unit`) it is from.

    An absent value is None. What a format tells apart, such as words and numbers, stays apart.
    """

    file: str
    unit: str
    rows: Sequence[int]
    columns: dict[str, list[Any]]

    def where(self, keep: Sequence[bool]) -> "Table":
        """The table of the rows to keep."""
        columns = {
            name: list(compress(values, keep)) for name, values in self.columns.items()
        }
        return self._replace(rows=list(compress(self.rows, keep)), columns=columns)

    def misfits(
        self, column: str, fits: Callable[[Any], bool], expected: str
    ) -> list[str]:
        """A line of complaint for each value of a column that does not fit."""
        values = zip(self.rows, self.columns[column], strict=True)
        place, what = f"{self.file}, {self.unit}", f"{column}: expected {expected}"
        return [
            f"{place} {row}: {what}, got {reprlib.repr(value)}"
            for row, value in values
            if not fits(value)
        ]


def read(path: Path, *, headerless: Sequence[str] = ()) -> Table:
    """Read `path` by its suffix. Lines count from 1 with the header; rows of Parquet count from 1.

    In .csv double quotes quote, as in RFC 4180; in .tsv they are characters like any other, as in GLUE's files.
    `headerless` names the columns of a .csv or .tsv whose first line has none of these names and so is no header.
    Raises ValueError on another suffix, bytes that are not UTF-8, text that is not of the format, or no rows.
    """
    match path.suffix.lower():
        case ".csv":
            table = _separated(path, ",", csv.QUOTE_MINIMAL, headerless)
        case ".tsv":
            table = _separated(path, "\t", csv.QUOTE_NONE, headerless)
        case ".jsonl":
            table = _json_lines(path)
        case ".parquet":
            table = _parquet(path)
        case suffix:
            raise ValueError(
                f"{path.name}: expected a file of {', '.join(FORMATS)}, got {suffix or 'no suffix'}"
            )
    if not table.rows:
        raise ValueError(f"{path.name}: expected rows, got none")
    return table


def provenance(path: Path) -> str:
    """The file's name and sha256."""
    with path.open("rb") as file:
        return f"{path.name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def refuse(problems: Sequence[str], *, shown: int = 5) -> None:
    """Raise one ValueError that lists the first problems and counts the others; nothing when there are none."""
    if problems:
        more = (
            [f"... and {len(problems) - shown:,} more"] if len(problems) > shown else []
        )
        count = f"{len(problems):,} problem{'s' * (len(problems) > 1)} in the data"
        raise ValueError("\n  ".join([f"{count}:", *problems[:shown], *more]))


def _open(path: Path, newline: str) -> TextIO:
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line, byte = (
            error.object.count(b"\n", 0, error.start) + 1,
            error.object[error.start],
        )
        message = f"{path.name}, line {line}: expected UTF-8, got the byte 0x{byte:02x}; save the file as UTF-8"
        raise ValueError(message) from None
    return path.open(encoding="utf-8-sig", newline=newline)


def _separated(
    path: Path, delimiter: str, quoting: Literal[0, 3], headerless: Sequence[str]
) -> Table:
    lines, rows, start = [], [], 1
    with _open(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if row:
                    lines.append(start)
                    rows.append(row)
                # A quoted field may hold line breaks, so a row is named by the line it starts on.
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{path.name}: the row from line {start} on cannot be read: {error}"
            ) from None
    header = [name.strip() for name in rows[0]] if rows else []
    if headerless and not set(header) & set(headerless):
        header = list(headerless)
    else:
        lines, rows = lines[1:], rows[1:]
    refuse(_misshapen(path, header, lines, rows))
    columns = {
        name: [row[i] if i < len(row) else None for row in rows]
        for i, name in enumerate(header)
    }
    return Table(path.name, "line", lines, columns)


def _misshapen(
    path: Path, header: Sequence[str], lines: Sequence[int], rows: Sequence[list[str]]
) -> list[str]:
    width, names = len(header), ", ".join(header)
    twice = {name for name in header if header.count(name) > 1}
    problems = [
        f"{path.name}: the column {name!r} is there more than once"
        for name in sorted(twice)
    ]
    return problems + [
        f"{path.name}, line {line}: expected {width} fields ({names}), got {len(row)}"
        for line, row in zip(lines, rows, strict=True)
        if len(row) > width
    ]


def _json_lines(path: Path) -> Table:
    rows, problems = {}, []
    with _open(path, newline="\n") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text) if text.strip() else None
                got = reprlib.repr(row)
            except json.JSONDecodeError as error:
                row, got = (
                    None,
                    f"what is not JSON ({error.msg}, character {error.pos + 1})",
                )
            if isinstance(row, dict):
                rows[line] = row
            elif text.strip():
                problems.append(
                    f"{path.name}, line {line}: expected a JSON object, got {got}"
                )
    refuse(problems)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return Table(
        path.name,
        "line",
        list(rows),
        {name: [row.get(name) for row in rows.values()] for name in names},
    )


def _parquet(path: Path) -> Table:
    try:
        # Arrow's own types keep the integers of a column with absent values from becoming floats.
        frame = pd.read_parquet(path, dtype_backend="pyarrow")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name}: not a readable Parquet file: {error}") from None
    columns = {
        str(name): [None if value is pd.NA else value for value in frame[name]]
        for name in frame
    }
    return Table(path.name, "row", range(1, len(frame) + 1), columns)
