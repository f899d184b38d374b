"""The frequencies of rotary position embedding, as a config.json asks for them.

Su et al. 2021 (arXiv 2104.09864). Linear scaling and Llama 3.1's scaling, which stretch
the positions of a longer context, are implemented; other scalings are rejected by name.
"""

import math
from collections.abc import Mapping
from typing import Any

SCALINGS = {  # rope_type -> the fields that it needs
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
# Fields of all types. The context of the first training changes nothing but for those
# that need it; some code notes that a model was finetuned.
GENERAL = (
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "finetuned",
)
# Fields of no effect at 1: scales of positions and of the attention.
NEUTRAL_AT_ONE = (
    "factor",
    "attention_factor",
    "attn_factor",
    "mscale",
    "mscale_all_dim",
)
DEFAULT_BASE = 10_000.0
# Whole numbers in JSON have no bound, those that can be computed with have.
LARGEST = 1e30


def read_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scaling's fields in a parsed config.json, `rope_type` among them.

    Raises:
        ValueError: the field is not an object.
    """
    # transformers 5 calls the field rope_parameters.
    return _read_scaling(config, "rope_scaling") or _read_scaling(
        config, "rope_parameters"
    )


def rope_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a message for each thing that is not implemented or contradicts another."""
    scaling = read_scaling(config)
    problems = _contradictions(config, scaling)
    # Some families rotate only a share of a head's numbers.
    for fields in (config, scaling):
        share = fields.get("partial_rotary_factor")
        if share not in (None, 1):
            problems.append(f"partial_rotary_factor is {share!r}, expected 1.0")
    problems += _number_problems({"rope_theta": config.get("rope_theta")})

    rope_type = scaling.get("rope_type", "default")
    if not isinstance(rope_type, str) or rope_type not in SCALINGS:
        problems.append(
            f"the rope_type of rope_scaling is {rope_type!r}, "
            f"expected one of {', '.join(SCALINGS)}"
        )
        return problems
    # A field may be there and null, which is as if it were absent.
    needed = SCALINGS[rope_type]
    missing = [name for name in needed if scaling.get(name) is None]
    if missing:
        problems.append(f"rope_scaling is {rope_type!r} without {', '.join(missing)}")
    numbers = {name: scaling.get(name) for name in ("rope_theta", *needed)}
    problems += _number_problems(numbers)
    problems += _unused_problems(scaling, rope_type)
    if rope_type == "llama3" and not problems:
        problems += _ramp_problems(scaling)
    return problems


def _read_scaling(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    scaling = config.get(name) or {}
    if not isinstance(scaling, dict):
        raise ValueError(f"config.json: {name} is {scaling!r}, expected an object")
    if not scaling:
        return {}
    # Older files call the field of the type "type".
    rope_type = scaling.get("rope_type") or scaling.get("type") or "default"
    return {**scaling, "rope_type": rope_type}


def _contradictions(config: Mapping[str, Any], scaling: dict[str, Any]) -> list[str]:
    """Return a message for each thing that the file says twice, and not alike."""
    problems = []
    # transformers reads one of the two and drops the other.
    both = [_read_scaling(config, name) for name in ("rope_scaling", "rope_parameters")]
    if all(both):
        base = {"rope_theta": config.get("rope_theta")}
        first, second = ({**base, **fields, "type": None} for fields in both)
        if first != second:
            problems.append(
                f"rope_scaling is {both[0]} and rope_parameters is {both[1]}, "
                "expected the same"
            )
    for name in ("rope_theta", "original_max_position_embeddings"):
        outer, inner = config.get(name), scaling.get(name)
        if outer is not None and inner is not None and outer != inner:
            problems.append(f"{name} is {outer!r} and {inner!r}, expected one number")
    # The older name of the type, and the newer one.
    named = (scaling.get("type"), scaling.get("rope_type"))
    if named[0] not in (None, named[1]):
        problems.append(f"type is {named[0]!r} and rope_type is {named[1]!r}")
    return problems


def _number_problems(values: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, value in values.items():
        if value is None:
            continue
        is_number = type(value) in (int, float)
        if not is_number or not 0 < value < LARGEST:
            problems.append(f"{name} is {value!r}, expected a number above 0")
    return problems


def _unused_problems(scaling: Mapping[str, Any], rope_type: str) -> list[str]:
    """Return a message for each field that this type of scaling does not have."""
    problems = []
    for name, value in scaling.items():
        if name in GENERAL or name in SCALINGS[rope_type] or value is None:
            continue
        if name in NEUTRAL_AT_ONE and value == 1:
            continue
        problems.append(
            f"rope_scaling is {rope_type!r}, which has no {name} ({value!r})"
        )
    return problems


def _ramp_problems(scaling: Mapping[str, Any]) -> list[str]:
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if low < high:
        return []
    return [f"low_freq_factor is {low!r}, expected less than high_freq_factor {high!r}"]


def read_base(config: Mapping[str, Any]) -> float:
    """Return the base of the frequencies."""
    inner_base = read_scaling(config).get("rope_theta")
    return config.get("rope_theta") or inner_base or DEFAULT_BASE


def plain_frequencies(config: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """Return the frequencies without scaling."""
    base = read_base(config)
    return tuple(base ** (-2 * pair / head_dim) for pair in range(head_dim // 2))


def rope_frequencies(config: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    """Return the frequency of each pair of a head's numbers, in radians a position.

    It is base ** (-2 j / head_dim) for pair j, scaled as the config.json asks.
    """
    scaling = read_scaling(config)
    plain = plain_frequencies(config, head_dim)
    # GGUF files hold the outcome of the scaling: what each frequency is divided by.
    factors = config.get("rope_factors")
    if factors:
        divided = []
        for frequency, factor in zip(plain, factors, strict=True):
            divided.append(frequency / factor)
        return tuple(divided)
    rope_type = scaling.get("rope_type")
    if rope_type == "linear":
        factor = scaling["factor"]
        return tuple(frequency / factor for frequency in plain)
    if rope_type == "llama3":
        return tuple(_scale_as_llama3(frequency, scaling) for frequency in plain)
    return plain


def _scale_as_llama3(frequency: float, scaling: Mapping[str, Any]) -> float:
    """Return the frequency divided by the factor if it is low, as it is if it is high.

    Low and high are numbers of turns within the context of the first training; between
    them there is a ramp. As in transformers' `_compute_llama3_parameters`.
    """
    low = scaling["low_freq_factor"]
    high = scaling["high_freq_factor"]
    factor = scaling["factor"]
    context = scaling["original_max_position_embeddings"]

    # Angles are in radians: 2 π are one turn.
    turns = context * frequency / (2 * math.pi)
    share = (turns - low) / (high - low)
    share = min(max(share, 0.0), 1.0)
    return share * frequency + (1 - share) * frequency / factor
