"""Reads tables whose fields are separated by a character: CSV and TSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, TextIO

from lora_jax.data.read_bytes import MAX_FILE
from lora_jax.data.read_text import read_text_bytes
from lora_jax.data.table import (
    MAX_COLUMNS,
    MAX_PROBLEMS,
    Table,
    check_size,
    raise_problems,
)

# In the order in which they are looked for in a header.
CSV_DELIMITERS = (",", ";", "\t", "|")
TSV_DELIMITERS = ("\t", ",", ";", "|")
NAMES = {";": "a semicolon", "\t": "a tab", "|": "a bar", ",": "a comma"}
# In one line, before it is taken apart; the second where quotes may hold a long text.
MAX_DELIMITERS = 100_000
MAX_QUOTED_DELIMITERS = 10_000_000


class Dialect(NamedTuple):
    """How the fields of a file are separated, and whether double quotes quote."""

    delimiter: str
    quoting: Literal[0, 3]


def read_separated(path: Path, *, headerless: Sequence[str] = ()) -> Table:
    """Read a .csv or .tsv file; see `read_table.read`.

    Raises:
        ValueError: it is not of the format.
        OSError: it cannot be read.
    """
    content = read_text_bytes(path)
    dialect, notes = _dialect(path, content, bool(headerless))
    lines, rows = _separated_rows(path.name, content, dialect)
    first_row = rows[0] if rows else []
    header = [name.strip() for name in first_row]
    if headerless and set(header).isdisjoint(headerless):
        # The names that the first row has fields for; a file may have fewer.
        header = list(headerless)
    else:
        # The first row is the header and holds no values.
        lines = lines[1:]
        rows = rows[1:]
    check_size(path.name, len(rows), len(header))
    raise_problems(_shape_problems(path.name, header, lines, rows))
    columns: dict[str, list[str | None]] = {}
    for name in header:
        columns[name] = []
    for row in rows:
        # A short row lacks its last fields: its values there are None.
        for name, value in zip_longest(header, row):
            columns[name].append(value)
    return Table(path.name, "line", lines, columns, notes)


def _dialect(
    path: Path, content: bytes, headerless: bool
) -> tuple[Dialect, tuple[str, ...]]:
    """How the file is separated, and a note where its suffix does not say so."""
    is_tsv = path.suffix.lower() == ".tsv"
    # Without a header there are no names to look between.
    if headerless:
        return Dialect("\t", csv.QUOTE_NONE), ()
    usual, *others = TSV_DELIMITERS if is_tsv else CSV_DELIMITERS
    header = _first_line(content)
    quoting = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
    if usual in header:
        return Dialect(usual, quoting), ()
    for delimiter in others:
        if delimiter in header:
            note = f"{path.name}: the fields are separated by {NAMES[delimiter]}"
            return Dialect(delimiter, csv.QUOTE_MINIMAL), (note,)
    # One column, which needs no delimiter.
    return Dialect(usual, quoting), ()


def _first_line(content: bytes) -> str:
    text = content.lstrip()
    # Lines may end in either character.
    line = text.partition(b"\n")[0].partition(b"\r")[0]
    return line.decode()


def _separated_rows(
    name: str, content: bytes, dialect: Dialect
) -> tuple[list[int], list[list[str]]]:
    """The rows with fields, each with the line it starts on."""
    # Python's own bound is 131,072 characters a field, and one for all of the process.
    csv.field_size_limit(MAX_FILE)
    lines: list[int] = []
    rows: list[list[str]] = []
    start = 1
    reader = csv.reader(
        _lines(name, content, dialect.delimiter),
        delimiter=dialect.delimiter,
        quoting=dialect.quoting,
        strict=True,
    )
    try:
        for row in reader:
            if len(row) > MAX_COLUMNS:
                _raise_wide(name, start, len(row))
            if row:
                lines.append(start)
                rows.append(row)
            # A quoted field may hold line breaks, so a row is named by the line it
            # starts on.
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}: the row from line {start} on cannot be read: {error}"
        ) from None
    return lines, rows


def _lines(name: str, content: bytes, delimiter: str) -> Iterator[str]:
    """The lines of a file, none of them of more fields than can be meant."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    # No line has more than there are in all.
    if content.count(delimiter.encode()) <= MAX_DELIMITERS:
        return iter(text)
    return _bounded_lines(name, text, delimiter)


def _bounded_lines(name: str, text: TextIO, delimiter: str) -> Iterator[str]:
    for number, line in enumerate(text, start=1):
        if len(line) > MAX_DELIMITERS:
            limit = MAX_QUOTED_DELIMITERS if '"' in line else MAX_DELIMITERS
            fields = line.count(delimiter) + 1
            if fields > limit:
                _raise_wide(name, number, fields)
        yield line


def _raise_wide(name: str, line: int, fields: int) -> NoReturn:
    raise ValueError(
        f"{name}, line {line}: expected at most {MAX_COLUMNS:,} columns, got {fields:,}"
    )


def _shape_problems(
    name: str, header: Sequence[str], lines: Sequence[int], rows: Sequence[list[str]]
) -> list[str]:
    """Names that are repeated, and rows with more fields than the header."""
    problems = []
    # Two columns of one name would be one column of the table.
    for column in sorted(set(header)):
        if header.count(column) > 1:
            problems.append(f"{name}: the column {column!r} is there more than once")
    for line, row in zip(lines, rows, strict=True):
        if len(row) > len(header):
            problems.append(
                f"{name}, line {line}: expected {len(header)} fields "
                f"({', '.join(header)}), got {len(row)}"
            )
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems
