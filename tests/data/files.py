"""What the tests of data share: files of a few lines, and the text of an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_jax import data

# Real data, which a checkout may have beside it.
SHARED = Path(__file__).parents[2].parent / "shared/data"


def write(path: Path, content: Any) -> Path:
    """Write text as it is and other content as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def json_lines(*rows: Any) -> str:
    """The rows as JSON, one a line."""
    lines = [json.dumps(row) + "\n" for row in rows]
    return "".join(lines)


def message(
    call: Callable, *args: Any, error: type[Exception] = ValueError, **keywords: Any
) -> str:
    """The text of the error that a call raises."""
    with pytest.raises(error) as caught:
        call(*args, **keywords)
    return str(caught.value)


def pairs(examples: data.Examples) -> list[tuple[str, str]]:
    """Each text with its second text or target."""
    assert examples.pair is not None
    return list(zip(examples.text, examples.pair, strict=True))


def sizes(task: data.Task) -> dict[str, int]:
    """The rows of each split."""
    return {name: len(examples.text) for name, examples in task.splits.items()}


def shared(name: str) -> Path:
    """The folder of real data; the test is skipped where there is none."""
    if not (SHARED / name).exists():
        pytest.skip(f"the real data is not there: ../shared/data/{name}")
    return SHARED / name
