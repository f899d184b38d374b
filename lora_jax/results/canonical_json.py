"""JSON with one spelling for one value, so that its hash can be an identity."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

EXPECTED = "expected values of JSON (text, bool, whole or finite number, None, list, dict), got"


def to_json(value: Any, name: str) -> str:
    """Return the value in one line, with sorted fields and without spaces.

    Tuples become lists. `name` is what error messages call the value.

    Raises:
        ValueError: lists every value that JSON cannot hold (NaN and infinity included).
    """
    problems: list[str] = []
    plain = _plain(value, name, problems)
    # All at once, so that a configuration is mended in one go.
    if problems:
        lines = [EXPECTED, *problems]
        raise ValueError("\n".join(lines))
    return json.dumps(
        plain,
        sort_keys=True,
        separators=(",", ":"),
    )


def _plain(value: Any, name: str, problems: list[str]) -> Any:
    """The value as JSON has it; what is wrong is appended to `problems` by its path."""
    match value:
        case Mapping():
            return _plain_object(value, name, problems)
        case list() | tuple():
            return _plain_array(value, name, problems)
        # A bool is an int. NumPy's integers are not: their spelling may change.
        case None | str() | int():
            return value
        # JSON has no NaN, though Python would write one.
        case float() if math.isfinite(value):
            return value
    kind = type(value).__name__
    problems.append(f"{name}: {kind} {value!r}")
    return None


def _plain_object(value: Mapping, name: str, problems: list[str]) -> dict[str, Any]:
    plain = {}
    for field, item in value.items():
        # Python would turn 1 into "1", and two fields into one.
        if not isinstance(field, str):
            problems.append(f"{name}: the field name {field!r} is no text")
        path = f"{name}.{field}"
        plain[field] = _plain(item, path, problems)
    return plain


def _plain_array(value: Sequence, name: str, problems: list[str]) -> list[Any]:
    plain = []
    for index, item in enumerate(value):
        path = f"{name}[{index}]"
        entry = _plain(item, path, problems)
        plain.append(entry)
    return plain
