"""Bounds on how much longer a tokenizer.json may make a text.

A few steps that replace "e" by a hundred times "e" turn a sentence into gigabytes,
and the library grows them until the process ends. So the steps are measured in the
JSON, before the library has them.
"""

import re
from collections.abc import Iterator
from typing import Any

# A space becomes "▁" and "<0x0A>" a line break; no tokenizer grows a text tenfold.
MAX_GROWTH = 64
# Characters before a text, of all steps together; usual is one "▁".
MAX_PREFIX = 64
# Around a text or a pair; the longest usual templates have about five.
MAX_SPECIAL = 100
# Repetitions of zero, choices, conditions and places, wherever they are: not all such
# expressions match nothing, and those that do are among them.
_MAY_MATCH_NOTHING = re.compile(r"[*?^$|]|\{[\s0,]|\\[bBAzZGKyY]|\(\)|^$")
# The texts that each template of a post-processor joins.
SEQUENCES = {"single": ["A"], "pair": ["A", "B"]}


def components(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a component and those within, with their paths, whatever their names."""
    if isinstance(value, dict):
        yield path, value
        for name, part in value.items():
            yield from components(part, f"{path}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from components(part, f"{path}[{index}]")


def check(fields: dict[str, Any]) -> None:
    """Raise a ValueError for steps that make a text far longer, or random.

    Args:
        fields: the content of a tokenizer.json. What has another form than a
            tokenizer's is left to the library, which tells it.
    """
    for name in ("normalizer", "decoder"):
        _check_steps(name, fields.get(name))
    name = "post_processor"
    for path, component in components(fields.get(name), name):
        for kind, names in SEQUENCES.items():
            pieces = component.get(kind)
            if isinstance(pieces, list):
                _check_texts(f"{path}.{kind}", pieces, names)
                _check_special(f"{path}.{kind}", pieces, component)
    model = fields.get("model")
    dropout = model.get("dropout") if isinstance(model, dict) else None
    # With it every encoding of a text is another one, in evaluation as well.
    if isinstance(dropout, int | float) and dropout != 0:
        raise ValueError(f"model.dropout: expected null or 0, got {dropout!r}")


def _check_steps(name: str, value: Any) -> None:
    growth, prefix = 1.0, 0
    # The library knows a step by its fields too, where it has no type.
    for path, step in components(value, name):
        growth *= _growth(step)
        # Inverted, so that a product beyond all floats is refused as well.
        if not growth <= MAX_GROWTH:
            raise ValueError(
                f"{path}: expected replacements that make a text up to {MAX_GROWTH} "
                f"times as long, got {growth:.4g} times with this step"
            )
        text = step.get("prepend")
        prefix += len(text) if isinstance(text, str) else 0
        if prefix > MAX_PREFIX:
            raise ValueError(
                f"{path}: expected up to {MAX_PREFIX} characters before a text, got "
                f"{prefix} with this step"
            )


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a replacement may make a text, and 1 for other steps."""
    content = step.get("content")
    pattern = step.get("pattern")
    if not isinstance(content, str) or not isinstance(pattern, dict):
        return 1
    expression = pattern.get("Regex")
    if isinstance(expression, str):
        # An expression may match single characters.
        length = 0 if _MAY_MATCH_NOTHING.search(expression) else 1
    else:
        length = len(str(pattern.get("String", "")))
    # What matches nothing is put before every character.
    if length == 0:
        return 1 + len(content)
    return max(1, len(content) / length)


def _check_texts(path: str, pieces: list[Any], names: list[str]) -> None:
    """A text twice is twice as long, and one that is left out is lost in silence."""
    texts = _names(pieces, "Sequence")
    if sorted(texts) == names:
        return
    expected = " and ".join(names)
    listed = ", ".join(texts[:5]) or "none"
    if len(texts) > 5:
        listed += f" … ({len(texts)} in all)"
    raise ValueError(f"{path}: expected the text {expected} once, got {listed}")


def _check_special(path: str, pieces: list[Any], template: dict[str, Any]) -> None:
    special = template.get("special_tokens")
    count = 0
    for name in _names(pieces, "SpecialToken"):
        token = special.get(name) if isinstance(special, dict) else None
        # A special token of the template may stand for several of the vocabulary.
        ids = _field(token, "ids", 1)
        count += len(ids) if isinstance(ids, list) else 1
    if count > MAX_SPECIAL:
        raise ValueError(
            f"{path}: expected up to {MAX_SPECIAL} special tokens, got {count}"
        )


def _names(pieces: list[Any], kind: str) -> list[str]:
    """The names of a template's pieces of one kind."""
    names = []
    for piece in pieces:
        if isinstance(piece, dict) and kind in piece:
            names.append(str(_field(piece[kind], "id", 0)))
    return names


def _field(value: Any, name: str, position: int) -> Any:
    """A field of a structure, which the library also reads from a list of values."""
    if isinstance(value, list):
        return value[position] if len(value) > position else None
    return value.get(name) if isinstance(value, dict) else None
