"""What a GGUF file says about scaled rotary positions, as a config.json would say it.

llama.cpp divides each frequency by its number in `rope_freqs.weight`, and all of them by
the factor of a linear scaling.
"""

from typing import Any

from lora_jax.checkpoints.gguf.neutral import Facts


def factor_problems(architecture: str, facts: Facts) -> list[str]:
    """Return a line for each factor of the positions that is no number, or below 0."""
    problems = []
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        factor = facts.get(name)
        if factor is None:
            continue
        is_number = type(factor) in (int, float)
        if not is_number or not 0 <= factor < 2**64:
            problems.append(
                f"{architecture}.{name}: expected a number, 0 for none, got {factor!r}"
            )
    return problems


def rope_scaling(facts: Facts, factors: list[float]) -> dict[str, Any]:
    """Return the fields of what the model does to its rotary frequencies, if any."""
    kind = facts.get("rope.scaling.type", "linear")
    # Files from before the fields of `rope.scaling` have the factor alone.
    factor = facts.get("rope.scaling.factor", facts.get("rope.scale_linear"))
    # Files without scaling may say so, or have nothing, or a factor of 0.
    is_scaled = kind != "none" and factor not in (None, 0, 1)
    # Llama 3.1's rule, worked out for each frequency; a linear one goes on top.
    if factors and (kind == "linear" or not is_scaled):
        scale: Any = factor if is_scaled else 1.0
        return {"rope_factors": [scale * number for number in factors]}
    if not is_scaled:
        return {}
    length = facts.get("rope.scaling.original_context_length")
    scaling = {
        "rope_type": kind,
        "factor": factor,
        "original_max_position_embeddings": length,
    }
    return {"rope_scaling": scaling}
