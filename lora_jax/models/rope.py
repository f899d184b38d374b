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
DEFAULT_BASE = 10_000.0


def read_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scaling's fields in a parsed config.json, `rope_type` among them.

    Raises:
        ValueError: the field is not an object.
    """
    # transformers 5 calls the field rope_parameters.
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise ValueError(
            f"config.json: rope_scaling is {scaling!r}, expected an object"
        )
    # Older files call the field of the type "type".
    old_name = scaling.get("type", "default")
    return {"rope_type": old_name, **scaling}


def rope_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a message for each thing about the scaling that is not implemented."""
    scaling = read_scaling(config)
    problems = []
    # Some families rotate only a share of a head's numbers.
    share = config.get("partial_rotary_factor", 1.0)
    share = scaling.get("partial_rotary_factor", share)
    if share != 1.0:
        problems.append(f"partial_rotary_factor is {share!r}, expected 1.0")

    rope_type = scaling["rope_type"]
    if rope_type not in SCALINGS:
        problems.append(
            f"the rope_type of rope_scaling is {rope_type!r}, "
            f"expected one of {', '.join(SCALINGS)}"
        )
        return problems
    missing = [name for name in SCALINGS[rope_type] if scaling.get(name) is None]
    if missing:
        problems.append(f"rope_scaling is {rope_type!r} without {', '.join(missing)}")
    return problems


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
    rope_type = scaling["rope_type"]
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
