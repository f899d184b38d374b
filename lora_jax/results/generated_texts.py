"""What models wrote for the same sources, side by side, as tables of a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lora_jax.results.rows import Row

SOURCES_SHOWN = 3
LONGEST = 400  # characters of a text that a table shows

Example = Mapping[str, Any]
"""A source, the output for it, and its references."""


def blocks(rows_by_name: Mapping[str, Sequence[Row]]) -> list[str | pd.DataFrame]:
    """Return a table for each of the first sources: its texts, and one reference.

    The texts are those of each name's first row, and of its first test split.
    """
    examples_by_name = {}
    for name, rows in rows_by_name.items():
        texts_by_split = rows[0]["written"]
        first_split = next(iter(texts_by_split))
        examples_by_name[name] = texts_by_split[first_split]["examples"]
    # All have the same sources; a row of another size may have fewer.
    count = min(map(len, examples_by_name.values()))
    tables = []
    for index in range(min(count, SOURCES_SHOWN)):
        tables.append(_table(examples_by_name, index))
    if not tables:
        return []
    return ["What was written for the first sources of the test set:", *tables]


def one_line(text: str) -> str:
    """Return a text in one line of a table, whatever a model has written."""
    line = "".join(map(_printable, text))
    # Markdown would read these as a tag and as emphasis.
    line = line.replace("<", "&lt;")
    line = line.replace("*", "\\*")
    if len(line) > LONGEST:
        return f"{line[:LONGEST]} …"
    return line


def _table(
    examples_by_name: Mapping[str, Sequence[Example]], index: int
) -> pd.DataFrame:
    """One source, what each wrote for it, and the first of its references."""
    # The source and its references are the same in all examples.
    first_name = next(iter(examples_by_name))
    first = examples_by_name[first_name][index]
    references = first["references"]
    count = len(references)
    texts = {"source": first["source"]}
    for name, examples in examples_by_name.items():
        texts[name] = examples[index]["output"]
    texts[f"a reference of {count}"] = references[0]
    columns = {
        "": list(texts),
        "text": list(map(one_line, texts.values())),
    }
    return pd.DataFrame(columns)


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if character == "\n":
        return " / "
    code = ord(character)
    return f"\\x{code:02x}"
