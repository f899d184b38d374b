"""`Decoding`: the settings by which the next tokens are chosen, and their check."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple


class Decoding(NamedTuple):
    """How tokens are chosen. LoRA's Table 11 has a beam of 10, a length penalty of 0.9
    (E2E) or 0.8, and no_repeat 4, within the text."""

    new_tokens: int = 64
    """Tokens generated at most, the end token included."""
    beam: int = 1
    """Beams of the search. 1 takes the likeliest token."""
    length_penalty: float = 1.0
    """A text's score is its log-probability divided by its length to this power."""
    no_repeat: int = 0
    """No n-gram of this size occurs twice. 0 allows all."""
    no_repeat_within: Literal["prompt", "text"] = "prompt"
    """Where n-grams count: prompt is prompt and text, as in transformers; text is the
    generated text alone, as in the LoRA authors' code, so that names of the prompt can
    be written."""
    temperature: float = 0.0
    """Temperature of sampling. 0 takes the likeliest token."""
    top_p: float = 1.0
    """Sampling is among the likeliest tokens that together have this probability."""


def check(decoding: Decoding) -> None:
    """Raise one ValueError that lists every setting outside its range."""
    problems = _range_problems(decoding)
    # Only settings that are valid each by itself can be held against one another.
    if not problems:
        problems = _conflicts(decoding)
    if problems:
        raise ValueError("; ".join(problems))


def is_integer(value: Any) -> bool:
    """Return whether the value is an integer, one of numpy's included."""
    # True and False are integers in Python.
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    # NaN would pass a comparison that asks whether a value is too large.
    return isinstance(value, Real) and math.isfinite(value)


def _is_positive_integer(value: Any) -> bool:
    return is_integer(value) and value >= 1


def _is_natural_number(value: Any) -> bool:
    return is_integer(value) and value >= 0


def _is_temperature(value: Any) -> bool:
    return _is_finite(value) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_finite(value) and 0 < value <= 1


class _Range(NamedTuple):
    """The values that a setting may have."""

    contains: Callable[[Any], bool]
    description: str


def _is_place(value: Any) -> bool:
    return value in ("prompt", "text")


# The range of each setting by itself; `_conflicts` has those that depend on another.
_RANGES = {
    "new_tokens": _Range(_is_positive_integer, "a whole number, 1 or more tokens"),
    "beam": _Range(_is_positive_integer, "a whole number, 1 or more"),
    "no_repeat": _Range(_is_natural_number, "a whole number, 0 (none) or more"),
    "no_repeat_within": _Range(_is_place, "prompt or text"),
    "length_penalty": _Range(_is_finite, "a finite number"),
    "temperature": _Range(_is_temperature, "0 (the likeliest token) or more"),
    "top_p": _Range(_is_share, "in (0, 1]"),
}


def _range_problems(decoding: Decoding) -> list[str]:
    # All of them, so that a command line is mended in one go.
    problems = []
    for name, allowed in _RANGES.items():
        value = getattr(decoding, name)
        if not allowed.contains(value):
            problems.append(f"{name}: expected {allowed.description}, got {value}")
    return problems


def _conflicts(decoding: Decoding) -> list[str]:
    problems = []
    # A beam takes the likeliest continuations; top_p restricts what is drawn.
    if decoding.beam > 1 and decoding.temperature:
        problems.append(
            f"temperature: expected 0 with a beam of {decoding.beam}, "
            f"which draws nothing, got {decoding.temperature}"
        )
    if decoding.top_p < 1 and not decoding.temperature:
        problems.append(
            "top_p: expected 1 with temperature 0, which draws nothing, "
            f"got {decoding.top_p}"
        )
    return problems
