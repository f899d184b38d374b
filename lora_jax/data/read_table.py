"""Reads one table of text: CSV, TSV, JSON lines or Parquet.

Every row keeps its number in the file, so that an error can name it. What a row has to
hold is checked by the caller, with `Table.misfits` and `raise_problems`.
"""

import csv
import hashlib
import json
import reprlib
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import pandas as pd

# By suffix. A folder is searched for files of these formats too.
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


class Table(NamedTuple):
    """Columns of equal length, and the place in the file each row is from.

    `rows` are numbers of lines, entries or rows; `unit` says which. An absent value is
    None. Types that a format distinguishes, such as words and numbers, stay distinct.
    """

    file: str
    unit: str
    rows: Sequence[int]
    columns: dict[str, list[Any]]

    def where(self, keep: Sequence[bool]) -> "Table":
        """Return the table of the rows whose element of `keep` is true."""
        columns = {}
        for name, values in self.columns.items():
            columns[name] = list(compress(values, keep))
        rows = list(compress(self.rows, keep))
        return self._replace(rows=rows, columns=columns)

    def misfits(
        self, column: str, fits: Callable[[Any], bool], expected: str
    ) -> list[str]:
        """Return a problem for each value of a column that does not fit."""
        problems = []
        values = self.columns[column]
        for row, value in zip(self.rows, values, strict=True):
            if fits(value):
                continue
            problems.append(
                f"{self.file}, {self.unit} {row}: {column}: "
                f"expected {expected}, got {reprlib.repr(value)}"
            )
        return problems


def read(path: Path, *, headerless: Sequence[str] = ()) -> Table:
    """Read a table in the format of its suffix.

    Lines count from 1 with the header; rows of Parquet count from 1. In .csv double
    quotes quote, as in RFC 4180; in .tsv they are plain characters, as in GLUE's files.
    `headerless` names the columns of a .csv or .tsv file whose first line has none of
    these names and is therefore no header.

    Raises:
        ValueError: another suffix, bytes that are not UTF-8, text that is not of the
            format, or no rows.
    """
    # By the suffix alone: the bytes of a format are not guessed.
    match path.suffix.lower():
        case ".csv":
            table = _read_separated(path, ",", csv.QUOTE_MINIMAL, headerless)
        case ".tsv":
            table = _read_separated(path, "\t", csv.QUOTE_NONE, headerless)
        case ".jsonl":
            table = _read_json_lines(path)
        case ".parquet":
            table = _read_parquet(path)
        case suffix:
            raise ValueError(
                f"{path.name}: expected a file of {', '.join(FORMATS)}, "
                f"got {suffix or 'no suffix'}"
            )
    # A header alone is no table.
    if not table.rows:
        raise ValueError(f"{path.name}: expected rows, got none")
    return table


def objects_as_table(
    file: str, unit: str, rows: Sequence[int], objects: Sequence[dict[str, Any]]
) -> Table:
    """Return the table of JSON objects: a column for each key that any of them has."""
    columns: dict[str, list[Any]] = {}
    # In the order in which the keys first appear.
    for entry in objects:
        for name in entry:
            columns.setdefault(name, [])
    for name, values in columns.items():
        for entry in objects:
            values.append(entry.get(name))
    return Table(file, unit, rows, columns)


def describe_file(path: Path) -> str:
    """Return the file's name and the sha256 of its bytes."""
    # Read in parts: a data set may be larger than memory.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{path.name} sha256:{digest}"


def describe_files(paths: Iterable[Path]) -> str:
    """Return the names and sha256 of several files, separated by commas."""
    descriptions = [describe_file(path) for path in paths]
    return ", ".join(descriptions)


def raise_problems(problems: Sequence[str], *, limit: int = 5) -> None:
    """Raise one ValueError that lists the first problems and counts the others.

    It does nothing when there are none.
    """
    if not problems:
        return
    count = len(problems)
    plural = "" if count == 1 else "s"
    lines = [f"{count:,} problem{plural} in the data:"]
    lines += problems[:limit]
    if count > limit:
        lines.append(f"... and {count - limit:,} more")
    raise ValueError("\n  ".join(lines))


def _open_text(path: Path, newline: str) -> TextIO:
    # All bytes first: an error of decoding while rows are read could not name its line.
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        # The error knows all bytes and the position of the first bad one.
        content = error.object
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ValueError(
            f"{path.name}, line {line}: expected UTF-8, got the byte 0x{byte:02x}; "
            "save the file as UTF-8"
        ) from None
    # The signature that some editors put at the beginning is no part of a name.
    return path.open(encoding="utf-8-sig", newline=newline)


def _read_separated(
    path: Path, delimiter: str, quoting: Literal[0, 3], headerless: Sequence[str]
) -> Table:
    lines, rows = _separated_rows(path, delimiter, quoting)
    first_row = rows[0] if rows else []
    header = [name.strip() for name in first_row]
    if headerless and set(header).isdisjoint(headerless):
        header = list(headerless)
    else:
        # The first row is the header and holds no values.
        lines = lines[1:]
        rows = rows[1:]
    raise_problems(_shape_problems(path, header, lines, rows))
    columns: dict[str, list[str | None]] = {}
    for name in header:
        columns[name] = []
    for row in rows:
        # A short row lacks its last fields: its values there are None.
        for name, value in zip_longest(header, row):
            columns[name].append(value)
    return Table(path.name, "line", lines, columns)


def _separated_rows(
    path: Path, delimiter: str, quoting: Literal[0, 3]
) -> tuple[list[int], list[list[str]]]:
    """The rows with fields, each with the line it starts on."""
    lines: list[int] = []
    rows: list[list[str]] = []
    start = 1
    with _open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if row:
                    lines.append(start)
                    rows.append(row)
                # A quoted field may hold line breaks, so a row is named by the line
                # it starts on.
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{path.name}: the row from line {start} on cannot be read: {error}"
            ) from None
    return lines, rows


def _shape_problems(
    path: Path, header: Sequence[str], lines: Sequence[int], rows: Sequence[list[str]]
) -> list[str]:
    """Names that are repeated, and rows with more fields than the header."""
    problems = []
    # Two columns of one name would be one column of the table.
    for name in sorted(set(header)):
        if header.count(name) > 1:
            problems.append(f"{path.name}: the column {name!r} is there more than once")
    for line, row in zip(lines, rows, strict=True):
        if len(row) > len(header):
            problems.append(
                f"{path.name}, line {line}: expected {len(header)} fields "
                f"({', '.join(header)}), got {len(row)}"
            )
    return problems


def _read_json_lines(path: Path) -> Table:
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    problems: list[str] = []
    # Only "\n" ends a line: JSON strings may hold other separators, as U+2028.
    with _open_text(path, newline="\n") as file:
        for line, text in enumerate(file, 1):
            # A blank line, as at the end of many files, is skipped but counted.
            if not text.strip():
                continue
            try:
                entry = json.loads(text)
                description = reprlib.repr(entry)
            except json.JSONDecodeError as error:
                entry = None
                character = error.pos + 1
                position = f"{error.msg}, character {character}"
                description = f"what is not JSON ({position})"
            if isinstance(entry, dict):
                lines.append(line)
                objects.append(entry)
            else:
                problems.append(
                    f"{path.name}, line {line}: expected a JSON object, "
                    f"got {description}"
                )
    raise_problems(problems)
    return objects_as_table(path.name, "line", lines, objects)


def _read_parquet(path: Path) -> Table:
    try:
        # Arrow's own types keep the integers of a column with absent values from
        # becoming floats.
        frame = pd.read_parquet(path, dtype_backend="pyarrow")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name}: not a readable Parquet file: {error}") from None
    # A name need not be text in Parquet.
    columns = {}
    for name in frame:
        # An absent value is None here, whatever the format has for it.
        values = [None if value is pd.NA else value for value in frame[name]]
        columns[str(name)] = values
    return Table(path.name, "row", range(1, len(frame) + 1), columns)
