"""Reads tables of JSON lines: an object a line."""

import io
import json
import reprlib
from pathlib import Path
from typing import Any

from lora_jax import bounded_json
from lora_jax.data.read_text import read_text_bytes
from lora_jax.data.table import MAX_PROBLEMS, Table, objects_as_table, raise_problems

# Of one object, in bytes: lists of numbers take many times their text.
MAX_LINE = 2**22


def read_json_lines(path: Path) -> Table:
    """Read a .jsonl file; see `read_table.read`.

    Raises:
        ValueError: lines hold no JSON objects; it names them.
        OSError: the file cannot be read.
    """
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    problems: list[str] = []
    # Only "\n" ends a line: JSON strings may hold other separators, as U+2028.
    for line, text in enumerate(io.BytesIO(read_text_bytes(path)), start=1):
        # A blank line, as at the end of many files, is skipped but counted.
        if not text.strip():
            continue
        entry, description = _parsed(text)
        if isinstance(entry, dict):
            lines.append(line)
            objects.append(entry)
        else:
            problems.append(
                f"{path.name}, line {line}: expected a JSON object, got {description}"
            )
            if len(problems) == MAX_PROBLEMS:
                break
    raise_problems(problems)
    return objects_as_table(path.name, "line", lines, objects)


def _parsed(text: bytes) -> tuple[Any, str]:
    """The value of a line, and in words what it is."""
    if len(text) > MAX_LINE:
        return None, f"a line of {len(text) / 2**20:,.1f} MiB"
    try:
        entry = bounded_json.parse(text)
    except json.JSONDecodeError as error:
        # What is wrong is a place in the line.
        character = error.pos + 1
        return None, f"what is not JSON ({error.msg}, character {character})"
    except ValueError as error:
        return None, f"what is not JSON ({error})"
    if isinstance(entry, dict):
        return entry, ""
    return entry, reprlib.repr(entry)
