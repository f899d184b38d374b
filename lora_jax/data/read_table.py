"""Reads one table of text: CSV, TSV, JSON lines or Parquet.

Every row keeps its number in the file, so that an error can name it.
"""

from collections.abc import Sequence
from pathlib import Path

from lora_jax.data.read_json_lines import read_json_lines
from lora_jax.data.read_parquet import read_parquet
from lora_jax.data.read_separated import read_separated
from lora_jax.data.table import Table

# By suffix. A folder is searched for files of these formats too.
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


def read(path: Path, *, headerless: Sequence[str] = ()) -> Table:
    """Read a table in the format of its suffix.

    Lines count from 1 with the header; rows of Parquet count from 1. In .csv double
    quotes quote, as in RFC 4180; in .tsv they are plain characters, as in GLUE's files.
    Where the header of a .csv has no comma but a semicolon, a tab or a bar, that
    separates the fields; likewise the comma of a .tsv without tabs. `headerless` names
    the columns of a .csv or .tsv file whose first line has none of these names and is
    therefore no header; its fields are separated by tabs.

    Raises:
        ValueError: another suffix, bytes that are not UTF-8, text that is not of the
            format, no rows, or more than can be meant; or it is no file.
        OSError: the file cannot be read.
    """
    # By the suffix alone: the bytes of a format are not guessed.
    match path.suffix.lower():
        case ".csv" | ".tsv":
            table = read_separated(path, headerless=headerless)
        case ".jsonl":
            table = read_json_lines(path)
        case ".parquet":
            table = read_parquet(path)
        case suffix:
            raise ValueError(
                f"{path.name}: expected a file of {', '.join(FORMATS)}, "
                f"got {suffix or 'no suffix'}"
            )
    # A header alone is no table.
    if not table.rows:
        raise ValueError(f"{path.name}: expected rows, got none")
    return table
