"""A table of text: columns of equal length, whose rows know their place in the file.

What a row has to hold is checked by the caller, with `Table.misfits` and
`raise_problems`.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from lora_jax.plural import counted

# Bounds of what is read. A table of text to train on has a few columns; a file of
# thousands was not meant, and would take all memory.
MAX_COLUMNS = 1_000
MAX_ROWS = 4_000_000
MAX_CELLS = 50_000_000
# Problems of one kind, after which nobody looks for more of them.
MAX_PROBLEMS = 1_000


class Table(NamedTuple):
    """Columns of equal length, and the place in the file each row is from.

    `rows` are numbers of lines, entries or rows; `unit` says which. An absent value is
    None. Types that a format distinguishes, such as words and numbers, stay distinct.
    `notes` say what was left out of the file, or how it was understood.
    """

    file: str
    unit: str
    rows: Sequence[int]
    columns: dict[str, list[Any]]
    notes: tuple[str, ...] = ()

    def where(self, keep: Sequence[bool]) -> "Table":
        """Return the table of the rows whose element of `keep` is true."""
        columns = {}
        for name, values in self.columns.items():
            columns[name] = list(compress(values, keep))
        rows = list(compress(self.rows, keep))
        return self._replace(rows=rows, columns=columns)

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """Return the table with new names of columns; a column in the way is dropped."""
        columns = {}
        for name, values in self.columns.items():
            if name in names or name not in names.values():
                columns[names.get(name, name)] = values
        return self._replace(columns=columns)

    def misfits(
        self, column: str, fits: Callable[[Any], bool], expected: str
    ) -> list[str]:
        """Return a problem for each value of a column that does not fit.

        There are at most `MAX_PROBLEMS`.
        """
        problems = []
        values = self.columns[column]
        for row, value in zip(self.rows, values, strict=True):
            if fits(value):
                continue
            problems.append(
                f"{self.file}, {self.unit} {row}: {column}: "
                f"expected {expected}, got {reprlib.repr(value)}"
            )
            if len(problems) == MAX_PROBLEMS:
                break
        return problems


def objects_as_table(
    file: str, unit: str, rows: Sequence[int], objects: Sequence[dict[str, Any]]
) -> Table:
    """Return the table of JSON objects: a column for each key that any of them has.

    Raises:
        ValueError: there are too many columns, rows or cells.
    """
    columns: dict[str, list[Any]] = {}
    # In the order in which the keys first appear.
    for entry in objects:
        for name in entry:
            columns.setdefault(name, [])
        # At once: objects that have no key in common would fill all memory.
        if len(columns) > MAX_COLUMNS:
            break
    check_size(file, len(objects), len(columns))
    for name, values in columns.items():
        for entry in objects:
            values.append(entry.get(name))
    return Table(file, unit, rows, columns)


def check_size(file: str, rows: int, columns: int) -> None:
    """Check the size of a table before it is made.

    Raises:
        ValueError: it has more rows, columns or cells than can be meant.
    """
    sizes = (
        ("columns", columns, MAX_COLUMNS),
        ("rows", rows, MAX_ROWS),
        ("cells", rows * columns, MAX_CELLS),
    )
    for unit, size, limit in sizes:
        if size > limit:
            raise ValueError(
                f"{file}: expected a table of at most {limit:,} {unit}, got {size:,}"
            )


def raise_problems(problems: Sequence[str], *, limit: int = 5) -> None:
    """Raise one ValueError that lists the first problems and counts the others.

    It does nothing when there are none.
    """
    if not problems:
        return
    count = len(problems)
    more = " or more" if count >= MAX_PROBLEMS else ""
    lines = [f"{counted(count, 'problem')}{more} in the data:"]
    lines += problems[:limit]
    if count > limit:
        lines.append(f"... and {count - limit:,} more")
    raise ValueError("\n  ".join(lines))
