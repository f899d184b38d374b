"""The published tables and figures of LoRA and QLoRA, as printed.

They are CSV files in `paper_tables/` of the checkout, whose README says how they were
read: LoRA is arXiv:2106.09685v2, QLoRA arXiv:2305.14314v1. `schema.toml` beside them
lists the columns of each. Every row has its source, and every file is checked as it is
read. `lora` and `qlora` translate them to the words of this library.
"""

import csv
import difflib
import math
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lora_jax.plural import counted

FOLDER = Path(__file__).resolve().parents[2] / "paper_tables"

# The kinds of cells that `schema.toml` names, but for "text", which is not checked.
NUMBER = "number"  # a finite one
OPTIONAL = "optional"  # a number, or nothing
MIXED = "mixed"  # a number where the cell reads as one, else words
SOURCE = "source"

# Where a row stands: a page of a paper or a file of a repository. Text after it is a
# remark. What is computed from published values says `formula`.
_PAPER = r"arXiv:(2106\.09685v2|2305\.14314v1)( p\.|#p)\d+"
_FILE = r"github:[\w.-]+/[\w.-]+:\S+"
_PLACE = rf"({_PAPER}|{_FILE})"
_SOURCE = re.compile(rf"{_PLACE}(; {_PLACE})*(( vector)|(, .+))?|formula")
# The same in words, for errors.
_SOURCES = (
    "arXiv:2106.09685v2 p.N, arXiv:2305.14314v1 p.N, github:OWNER/REPO:PATH or formula"
)

Columns = dict[str, str]  # names in order, and the kind of each


class _Rows(NamedTuple):
    """The rows of one file as text, and its problems."""

    cells: list[list[str]]
    problems: list[str]


def table(name: str, *, folder: Path | None = None) -> pd.DataFrame:
    """Return one published table, checked.

    Columns of numbers are numeric, with NaN for an empty cell. A cell of a column of
    numbers and words, such as a hyperparameter's `value`, is a float where it reads as
    one, else the string as printed. A table whose one value column has a longer name,
    as `published_value`, also has it as `value`.

    Raises:
        ValueError: the name is unknown, or the file is damaged; it lists all problems.
        FileNotFoundError: there is no checkout.
    """
    # The name first, so that a misspelling is not taken for a missing file.
    tables = schema(folder)
    if name not in tables:
        raise ValueError(_unknown(name, tables))
    columns = tables[name]
    rows = _read(_folder(folder), name, columns)
    _raise_problems(rows.problems)
    # Then text becomes numbers, column by column.
    names = pd.Index(list(columns))
    data = pd.DataFrame(rows.cells, columns=names)
    for column, kind in columns.items():
        cells = data[column]
        if kind in (NUMBER, OPTIONAL):
            data[column] = pd.to_numeric(cells.replace("", None))
        elif kind == MIXED:
            # Of type object, since floats and words stand together.
            values = [_mixed(cell) for cell in cells]
            data[column] = pd.Series(values, dtype=object)
    return _with_value(data)


def claims() -> pd.DataFrame:
    """Return the claims in the papers' text by id: L1.. of LoRA, Q1.. of QLoRA.

    `value` is a float where it is a number.
    """
    return table("claims").set_index("id")


def rows_where(published: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Return the rows of a table that have a value in a column."""
    # As a query, since indexing by a mask may return other types than a table.
    return published.query(f"{column} == @value")


def schema(folder: Path | None = None) -> dict[str, Columns]:
    """Return the columns of every table, in order, and the kind of cells of each.

    Raises:
        FileNotFoundError: there is no checkout.
    """
    path = _folder(folder) / "schema.toml"
    with path.open("rb") as file:
        return tomllib.load(file)


def validate(folder: Path | None = None) -> None:
    """Check every shipped file against the schema.

    Raises:
        ValueError: files are unknown, missing or damaged. It lists all problems, with
            file, line (the header is line 1), what is expected and what is there.
    """
    folder = _folder(folder)
    tables = schema(folder)
    # Files that the schema does not know, then all that it knows.
    problems = []
    for path in sorted(folder.rglob("*.csv")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name not in tables:
            problems.append(
                f"{name}.csv: unknown file, expected one of those in schema.toml"
            )
    for name, columns in tables.items():
        problems += _read(folder, name, columns).problems
    _raise_problems(problems)


def _folder(folder: Path | None) -> Path:
    folder = folder or FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: the published values lie in the checkout, not in "
            "the installed package; clone the repository and install it with "
            "`pip install -e .`"
        )
    return folder


def _unknown(name: str, tables: dict[str, Columns]) -> str:
    message = f"no published table {name!r}; "
    close = difflib.get_close_matches(name, tables, n=3)
    if close:
        message += f"did you mean {', '.join(close)}? "
    return f"{message}there are {', '.join(tables)}"


def _read(folder: Path, name: str, columns: Columns) -> _Rows:
    """Read one file; a file that cannot be read as such has no rows."""
    path = folder / f"{name}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            cells = []
            lines = []
            for row in reader:
                # A row is named by the line it ends on.
                cells.append(row)
                lines.append(reader.line_num)
    except FileNotFoundError:
        return _Rows([], [f"{name}.csv: missing"])
    except (UnicodeDecodeError, csv.Error) as error:
        problem = f"{name}.csv: expected CSV in UTF-8, got {error}"
        return _Rows([], [problem])
    if header != list(columns):
        problem = (
            f"{name}.csv line 1: expected columns {','.join(columns)}, "
            f"got {','.join(header)}"
        )
        return _Rows([], [problem])
    problems = []
    if not cells:
        problems.append(f"{name}.csv: expected rows, got none")
    for line, row in zip(lines, cells, strict=True):
        for problem in _row_problems(columns, row):
            problems.append(f"{name}.csv line {line}: {problem}")
    # Only the claims have ids, in their first column.
    if "id" in columns:
        problems += _id_problems(name, cells)
    return _Rows(cells, problems)


def _id_problems(name: str, cells: Sequence[Sequence[str]]) -> list[str]:
    counts = Counter(row[0] for row in cells if row)
    problems = []
    for key in sorted(counts):
        if counts[key] > 1:
            problems.append(f"{name}.csv: expected each id once, got {key!r} again")
    return problems


def _row_problems(columns: Columns, row: Sequence[str]) -> list[str]:
    # Cells cannot be told apart in a row of another length.
    if len(row) != len(columns):
        return [f"expected {counted(len(columns), 'cell')}, got {len(row)}"]
    problems = []
    for column, cell in zip(columns, row, strict=True):
        kind = columns[column]
        has_number = kind == NUMBER or (kind == OPTIONAL and cell)
        if has_number and isinstance(_number(cell), str):
            problems.append(f"{column}: expected a number, got {cell!r}")
        if kind == SOURCE and not _SOURCE.fullmatch(cell):
            problems.append(f"source: expected {_SOURCES}, got {cell!r}")
    return problems


def _mixed(cell: str) -> float | str:
    """A number where the cell reads as one, NaN where it is empty, else the text."""
    if not cell:
        return math.nan
    return _number(cell)


def _number(cell: str) -> float | str:
    """The cell as a number; as it is where it is no finite one."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    # "nan" and "inf" are no published numbers.
    if not math.isfinite(number):
        return cell
    return number


def _with_value(data: pd.DataFrame) -> pd.DataFrame:
    """The table with its one value column as `value`, so that all can be read alike."""
    if "value" in data:
        return data
    values = []
    for column in data:
        words = str(column).split("_")
        if "value" in words:
            values.append(column)
    # A comparison has two value columns, and none of them is the value.
    if len(values) == 1:
        data["value"] = data[values[0]]
    return data


def _raise_problems(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("published tables are damaged:\n" + "\n".join(problems))
