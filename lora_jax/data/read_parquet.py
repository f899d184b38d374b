"""Reads tables of Parquet.

Its metadata are checked before anything is read, since a file of a few kilobytes can
hold a billion rows, or say that it does.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
from pyarrow import parquet

from lora_jax.data.read_bytes import MAX_FILE, read_bytes
from lora_jax.data.table import Table, check_size, raise_problems

# Of all texts together: they are stored once, and may be repeated a million times.
MAX_CHARACTERS = 2**30
# Parts that a file is stored in, over all columns.
MAX_CHUNKS = 1_000_000
# What Arrow and its thin layer of Python raise for files of all kinds of damage.
ERRORS = (
    pa.ArrowException,
    ValueError,
    OSError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    AttributeError,
)


class ArrowValue(NamedTuple):
    """Stands for a value of a type that is neither text nor a number: a list, a date."""

    type: str

    def __repr__(self) -> str:
        return f"Arrow's type {self.type}"


def read_parquet(path: Path) -> Table:
    """Read a .parquet file; see `read_table.read`.

    Texts, numbers and truth values are read; of other types there is an `ArrowValue`.

    Raises:
        ValueError: it is no Parquet, or larger than can be meant.
        OSError: it cannot be read.
    """
    content = pa.BufferReader(read_bytes(path))
    try:
        metadata = parquet.read_metadata(content)
        schema = metadata.schema.to_arrow_schema()
    except ERRORS as error:
        _raise_unreadable(path, error)
    _check_metadata(path, metadata, schema)
    content.seek(0)
    try:
        columns = _columns(content, metadata.num_rows, schema)
    except ERRORS as error:
        _raise_unreadable(path, error)
    return Table(path.name, "row", range(1, metadata.num_rows + 1), columns)


def _raise_unreadable(path: Path, error: BaseException) -> NoReturn:
    # Arrow's own text may go on for lines.
    first_line = f"{error}".partition("\n")[0]
    raise ValueError(
        f"{path.name}: not a readable Parquet file: {first_line}"
    ) from None


def _check_metadata(path: Path, metadata: Any, schema: pa.Schema) -> None:
    # Names are columns of a table, of which there may be one a name.
    names = schema.names
    check_size(path.name, metadata.num_rows, len(names))
    problems = []
    for name in sorted(set(names)):
        if names.count(name) > 1:
            problems.append(f"{path.name}: the column {name!r} is there more than once")
    raise_problems(problems)
    check_size(path.name, metadata.num_rows, metadata.num_columns)
    groups = metadata.num_row_groups
    if groups * metadata.num_columns > MAX_CHUNKS:
        raise ValueError(f"{path.name}: expected fewer row groups, got {groups:,}")
    # What the parts hold, unpacked, and how many rows they say they have.
    rows = 0
    size = 0
    for index in range(groups):
        group = metadata.row_group(index)
        rows += group.num_rows
        size += group.total_byte_size
    if rows != metadata.num_rows or size > MAX_FILE:
        raise ValueError(
            f"{path.name}: expected {metadata.num_rows:,} rows of at most "
            f"{MAX_FILE // 2**20:,} MiB, got {rows:,} rows of {size // 2**20:,} MiB"
        )


def _columns(
    content: pa.BufferReader, rows: int, schema: pa.Schema
) -> dict[str, list[Any]]:
    texts = []
    plain = []
    for field in schema:
        if _is_text(field.type):
            texts.append(field.name)
        if _is_text(field.type) or _is_number(field.type):
            plain.append(field.name)
    # Distinct texts once: many rows of one long text are a small file.
    file = parquet.ParquetFile(content, read_dictionary=texts)
    table = file.read(columns=plain, use_threads=False)
    columns: dict[str, list[Any]] = {}
    for field in schema:
        if field.name in plain:
            columns[field.name] = _values(table.column(field.name))
        else:
            # Without its parts and units: "list", "timestamp".
            (kind,) = re.findall(r"^\w+", str(field.type))
            columns[field.name] = [ArrowValue(kind)] * rows
    characters = 0
    for name in texts:
        characters += sum(len(text or "") for text in columns[name])
    if characters > MAX_CHARACTERS:
        raise ValueError(
            f"expected at most {MAX_CHARACTERS:,} characters, got {characters:,}"
        )
    return columns


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; an absent one is None."""
    values: list[Any] = []
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            values += chunk.to_pylist()
            continue
        distinct = chunk.dictionary.to_pylist()
        for index in chunk.indices.to_pylist():
            values.append(None if index is None else distinct[index])
    return values


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    is_view = pa.types.is_string_view(kind)
    return is_view or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_number(kind.value_type)
    is_real = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    is_discrete = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return is_real or is_discrete or pa.types.is_null(kind)
