"""What the fields of a row must be, wherever a page reads them.

Rows are text that anybody can edit. A place in a row is a path of names joined by
dots, in which `{}` stands for all values of an object and `[]` for all items of a list:
`written.{}.examples.[].source`. A dot in a name would end it, so no field has one.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LARGEST = 2**63  # numbers of this size and above are no counts, sizes or seeds
SHOWN = 60  # characters of a wrong value in a message
ANY_FIELD = "{}"
ANY_ITEM = "[]"


class Kind(NamedTuple):
    """The values that a field may have."""

    words: str  # as a message has it: "a whole number"
    allows: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    # A bool is a number to Python, but no measurement.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # Compared first: a whole number beyond every float cannot be tested.
    return -LARGEST < value < LARGEST and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_size(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_share(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_float_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and float(value).is_integer()


def _is_parameters(value: Any) -> bool:
    # Experiments that train no head record one number.
    if isinstance(value, dict):
        return all(_is_whole(value.get(name)) for name in ("adapter", "head"))
    return _is_whole(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_time(value: Any) -> bool:
    return _is_number(value) or _is_numbers(value)


def _is_score(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_curve(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            return False
        step, loss = point
        if not _is_number(step) or not _is_score(loss):
            return False
    return True


def _is_maps(value: Any) -> bool:
    """Whether a value is a list of matrices of one shape, without negative numbers."""
    if not isinstance(value, list) or not value:
        return False
    try:
        maps = np.array(value)
    # Lines of several lengths, or numbers beyond 64 bits.
    except (ValueError, OverflowError):
        return False
    if maps.ndim != 3 or maps.dtype.kind not in "if" or not maps.size:
        return False
    return bool(np.isfinite(maps).all() and (maps >= 0).all())


def _is_date(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= len("2026-01-31")


NUMBER = Kind("a finite number", _is_number)
SIZE = Kind("a number of 0 or more", _is_size)
POSITIVE = Kind("a number above 0", _is_positive)
SHARE = Kind("a number from 0 to 1, or null for a run that diverged", _is_share)
FLOAT_COUNT = Kind("a whole number, which may be written as 8.0", _is_float_count)
PARAMETERS = Kind("a number of parameters, or adapter's and head's", _is_parameters)
SCORE = Kind("a finite number, or null for a run that diverged", _is_score)
WHOLE = Kind("a whole number of 0 or more", _is_whole)
COUNT = Kind("a whole number of 1 or more", _is_count)
TEXT = Kind("text", _is_text)
NAME = Kind("text that is not empty", lambda value: _is_text(value) and value != "")
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
NUMBERS = Kind("a list of finite numbers", _is_numbers)
TIME = Kind("seconds, a number or a list of them", _is_time)
CURVE = Kind("a list of [step, loss]", _is_curve)
MAPS = Kind("a list of matrices of one shape, of numbers of 0 or more", _is_maps)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
DATE = Kind("a date, as 2026-01-31", _is_date)


def one_of(*choices: str) -> Kind:
    """Return the kind of a text that is one of these."""
    return Kind(f"one of {', '.join(choices)}", choices.__contains__)


def optional(kind: Kind) -> Kind:
    """Return the kind that allows null as well."""
    return Kind(
        f"{kind.words}, or null", lambda value: value is None or kind.allows(value)
    )


Needs = Mapping[str, Kind]
"""The kinds of fields, by path."""

# Where a row has one of these fields, it is of this kind.
FIELDS: Needs = {
    "examples.{}": COUNT,
    "parameters": PARAMETERS,
    "seconds": TIME,
    "curve": CURVE,
    "loss.[]": SCORE,
    "validation.[].{}": SCORE,
    "trained.{}": SCORE,
    "tokens_per_second": NUMBER,
    "steps": WHOLE,
    "tokens": WHOLE,
    "best_epoch": optional(WHOLE),
    "peak_memory_mb": optional(NUMBER),
    "dimension": COUNT,
    "phi": MAPS,
    "phi_random": MAPS,
    "layers.{}.{}": NUMBERS,
    "written.{}.tokens_per_second": NUMBER,
    "written.{}.missing.{}": TEXT,
    "written.{}.examples.[].source": TEXT,
    "written.{}.examples.[].output": TEXT,
    "written.{}.examples.[].references.[]": TEXT,
}
# Without these nobody knows what a row was made with.
PROVENANCE: Needs = {
    "provenance.date": DATE,
    "provenance.commit": TEXT,
    "provenance.dirty": SWITCH,
    "provenance.versions.jax": TEXT,
    "provenance.machine.cpu": TEXT,
    "provenance.machine.cores": COUNT,
    "provenance.machine.backend": TEXT,
}


def no_needs(_row: Mapping[str, Any]) -> Needs:
    """Return that a page reads no field in particular."""
    return {}


def problems(row: Mapping[str, Any], needs: Needs) -> list[str]:
    """Return a sentence on each field that is missing or is of another kind.

    A row must have all the fields of `needs`; those of `FIELDS` count where they are.
    """
    result: dict[str, None] = {}  # each once, in order
    for path, kind in {**FIELDS, **needs}.items():
        steps = path.split(".")
        is_needed = path in needs
        result |= dict.fromkeys(_problems(row, steps, (), kind, is_needed))
    return list(result)


def excerpt(value: Any) -> str:
    """Return a value in a few characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _problems(
    value: Any, steps: Sequence[str], before: tuple, kind: Kind, is_needed: bool
) -> Iterator[str]:
    """The problems from a place in a row on; `before` is the way to it."""
    place = ".".join(before)
    # At the end of the path stands the value itself, before it an object or a list.
    expected = _expected(steps, kind)
    if not expected.allows(value):
        yield f"{place}: expected {expected.words}, got {excerpt(value)}"
        return
    if not steps:
        return
    step, *after = steps
    items = _items(value, step)
    if is_needed and not items:
        missing = place if step in (ANY_FIELD, ANY_ITEM) else ".".join((*before, step))
        yield f"{missing}: expected {_expected(after, kind).words}, got none"
    for name, item in items:
        yield from _problems(item, after, (*before, name), kind, is_needed)


def _expected(steps: Sequence[str], kind: Kind) -> Kind:
    """What stands where these steps are still to go."""
    if not steps:
        return kind
    return LIST if steps[0] == ANY_ITEM else OBJECT


def _items(value: Any, step: str) -> list[tuple[str, Any]]:
    """The values that a step leads to, with their names."""
    if step == ANY_FIELD:
        return list(value.items())
    if step == ANY_ITEM:
        return [(str(index), item) for index, item in enumerate(value)]
    return [(step, value[step])] if step in value else []
