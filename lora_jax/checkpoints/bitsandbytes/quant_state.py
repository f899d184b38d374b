"""The JSON that bitsandbytes keeps with a weight in NF4 or FP4.

Its format is that of `QuantState.as_dict(packed=True)` in bitsandbytes 0.50. QLoRA's
double quantization is called "nested" there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lora_jax import bounded_json, quant
from lora_jax.checkpoints.bitsandbytes.parts import Group
from lora_jax.quant.formats import FP4, NF4

# The 16 numbers that the codes of each format stand for.
TABLES = {"nf4": NF4, "fp4": FP4}
# What a weight may have been before it was quantized.
DTYPES = ("float32", "float16", "bfloat16")
# The start of the JSON's name; the format is its end.
STATE = "quant_state.bitsandbytes__"


class QuantState(NamedTuple):
    """What the JSON of a weight says."""

    codec: str
    block: int
    dtype: str
    shape: tuple[int, int]  # (out, in)
    # Of scales that are quantized too; None for scales that are floats.
    offset: float | None


class _Field(NamedTuple):
    """A field of the JSON: what it must be, in words and as a test."""

    name: str
    description: str
    fits: Callable[[Any], bool]


def read_state(weight: str, group: Group) -> QuantState:
    """Return the state of a weight.

    Raises:
        ValueError: the JSON is missing, cannot be read, or is of an unknown format; or
            fields are not what they must be, each of which is named.
    """
    part, codec = _find_state(weight, group)
    name = f"{weight}.{part}"
    facts = _parse(name, group[part].read().tobytes())
    nested = _is_nested(group, facts)
    _check_fields(name, facts, _expected_fields(codec, nested))
    out, width = facts["shape"]
    return QuantState(
        codec,
        block=facts["blocksize"],
        dtype=facts["dtype"],
        shape=(out, width),
        offset=facts["nested_offset"] if nested else None,
    )


def _find_state(weight: str, group: Group) -> tuple[str, str]:
    """Return the name of the JSON among the parts, and the format in that name."""
    parts = sorted(part for part in group if part.startswith(STATE))
    # Several would be of different formats, and the codes of one.
    if len(parts) == 1:
        codec = parts[0].removeprefix(STATE)
        if codec in TABLES:
            return parts[0], codec
    expected = " or ".join(STATE + codec for codec in TABLES)
    actual = ", ".join(parts) or "none"
    raise ValueError(f"{weight}: expected with {expected}, got {actual}")


def _parse(name: str, text: bytes) -> dict[str, Any]:
    try:
        return dict(bounded_json.parse(text))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: expected a JSON object, got {text[:60]!r} ({error})"
        ) from None


def _is_nested(group: Group, facts: dict[str, Any]) -> bool:
    # One trace of double quantization is enough to ask for all that goes with it.
    if "nested_absmax" in group:
        return True
    return any(field.name in facts for field in _NESTED_FIELDS)


def _expected_fields(codec: str, nested: bool) -> list[_Field]:
    # The format is in the JSON too, beside its place in the JSON's name.
    def is_codec(value: Any) -> bool:
        return value == codec

    fields = [_Field("quant_type", repr(codec), is_codec), *_FIELDS]
    if nested:
        fields += _NESTED_FIELDS
    return fields


def _check_fields(name: str, facts: dict[str, Any], fields: list[_Field]) -> None:
    problems = []
    for field in fields:
        value = facts.get(field.name)
        if not field.fits(value):
            expected = f"{field.name} to be {field.description}"
            problems.append(f"{name}: expected {expected}, got {value!r}")
    if problems:
        raise ValueError("\n  ".join(problems))


def _is_count(value: Any) -> bool:
    # `isinstance` would take True, which is an int.
    return type(value) is int and value > 0


def _is_block(value: Any) -> bool:
    # 64.0 is in BLOCKS too, for it equals 64.
    return _is_count(value) and value in quant.BLOCKS


def _is_dtype(value: Any) -> bool:
    return value in DTYPES


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(map(_is_count, value))


def _is_nested_block(value: Any) -> bool:
    return value == quant.NESTED


def _is_float32(value: Any) -> bool:
    return value == "float32"


def _is_offset(value: Any) -> bool:
    # JSON's numbers have no bound, and Python reads NaN: neither is below the largest.
    if type(value) not in (int, float):
        return False
    return abs(value) < float(np.finfo(np.float32).max)


# Of every weight; the format comes before them.
_FIELDS = [
    _Field("blocksize", f"one of {quant.BLOCKS}", _is_block),
    _Field("dtype", f"one of {', '.join(DTYPES)}", _is_dtype),
    _Field("shape", "[out, in]", _is_shape),
]
# Of weights whose scales are quantized too.
_NESTED_FIELDS = [
    _Field("nested_blocksize", str(quant.NESTED), _is_nested_block),
    _Field("nested_dtype", "'float32'", _is_float32),
    _Field("nested_offset", "a number", _is_offset),
]
