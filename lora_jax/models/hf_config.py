"""Reading the fields of a Hugging Face config.json, and checking them.

Each model family has its own names for the same sizes; a family's `Config.from_hf` says
which field of the file holds which of ours.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# A parsed config.json: its fields by name.
Fields = Mapping[str, Any]


class FieldKind(NamedTuple):
    """The values that a field may have."""

    description: str
    is_valid: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    # Not isinstance: JSON's true and false are integers in Python.
    return type(value) is int


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_token_id(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_positive(value: Any) -> bool:
    is_number = _is_whole(value) or isinstance(value, float)
    # Python's json also reads NaN and Infinity.
    return is_number and 0 < value < math.inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


SIZE = FieldKind("a whole number above 0", _is_size)
KINDS = {  # by our names; every other field is a size
    "activation": FieldKind("a word", _is_text),
    "epsilon": FieldKind("a number above 0", _is_positive),
    "pad": FieldKind("a token id", _is_token_id),
}
# Other names in a config.json of the activations that there are (transformers'
# activations.py); the tanh of those on the right is computed in another order.
ACTIVATION_NAMES = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}


def read_fields(config: Fields, names: Mapping[str, str]) -> dict[str, Any]:
    """Return values of a parsed config.json under our names.

    Args:
        config: the parsed file.
        names: our name of each field -> the name of the field in the file.

    Raises:
        ValueError: fields are missing, or of another kind; the message lists them all.
    """
    # Missing fields first: only fields that exist have a kind.
    expected = list(names.values())
    missing = [name for name in expected if name not in config]
    if missing:
        raise ValueError(
            f"config.json: expected the fields {', '.join(expected)}; "
            f"missing: {', '.join(missing)}"
        )
    # Then all values, so that one error lists everything that is wrong.
    values = {}
    problems = []
    for our_name, name in names.items():
        value = config[name]
        kind = KINDS.get(our_name, SIZE)
        if not kind.is_valid(value):
            problems.append(f"{name} is {value!r}, expected {kind.description}")
        values[our_name] = value
    raise_problems(problems)
    if "activation" in values:
        activation = values["activation"]
        values["activation"] = ACTIVATION_NAMES.get(activation, activation)
    return values


def read_flag(config: Fields, name: str, default: bool) -> bool:
    """Return an optional field that is true or false; null is the default."""
    value = config.get(name)
    return default if value is None else value


def read_eos_ids(config: Fields) -> tuple[int, ...]:
    """Return the tokens that end a text; a config.json names none, one, or a list.

    They may be tokens that the model does not have: small random models often keep the
    end token of a large vocabulary.

    Raises:
        ValueError: the field holds something else than token ids.
    """
    value = config.get("eos_token_id")
    # A model without an end token can be trained, not asked for texts.
    if value is None:
        return ()
    eos_ids = tuple(value) if isinstance(value, list) else (value,)
    # Tokens are kept in 32 bits.
    if not all(_is_whole(token) and abs(token) < 2**31 for token in eos_ids):
        raise ValueError(
            f"eos_token_id: expected a token id or a list of them, got {value!r}"
        )
    return eos_ids


def choice_problems(name: str, value: Any, choices: Iterable[str]) -> list[str]:
    """Return a message, in a list, if the field's value is none of the choices."""
    choices = list(choices)
    if value in choices:
        return []
    listed = ", ".join(choices)
    message = f"{name} is {value!r}, expected one of {listed}"
    return [message]


def multiple_problems(config: Fields, name: str, divisor: str) -> list[str]:
    """Return a message, in a list, if one field is no multiple of another."""
    value = config[name]
    unit = config[divisor]
    if value % unit == 0:
        return []
    message = f"{name} {value} is no multiple of {divisor} {unit}"
    return [message]


def raise_problems(problems: list[str]) -> None:
    """Raise one ValueError that lists all problems of a config.json, if it has any."""
    if problems:
        listed = "; ".join(problems)
        raise ValueError(f"config.json: {listed}")
