"""Sliding windows of a config.json: how many tokens a token attends to, itself included.

They are not implemented. A model takes no text that is longer than its window, which
then hides nothing.
"""

from collections.abc import Mapping
from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"
# What transformers has for fields that are absent.
DEFAULT_WINDOW = 4096
DEFAULT_FULL_LAYERS = 28


def read_window(config: Mapping[str, Any], layers: int) -> int | None:
    """Return the size of the window that some layer has, or None.

    Mistral has one in all layers, whatever `use_sliding_window` says. Qwen2 has one if
    that is true, in the layers of that kind. Llama has none; one in its config.json is
    that of the model which it was converted from.
    """
    model_type = config.get("model_type")
    # Absent is not null: null is no window.
    if model_type == "mistral":
        return config.get("sliding_window", DEFAULT_WINDOW)
    if model_type != "qwen2":
        is_used = config.get("use_sliding_window") is not False
        return config.get("sliding_window") if is_used else None
    if config.get("use_sliding_window") is not True or not _slides(config, layers):
        return None
    return config.get("sliding_window", DEFAULT_WINDOW)


def window_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a message for each field of windows that is not as it must be."""
    problems = []
    window = config.get("sliding_window")
    if window is not None and not (type(window) is int and window > 0):
        problems.append(f"sliding_window is {window!r}, expected a number above 0")
    full_layers = config.get("max_window_layers")
    if full_layers is not None and not (type(full_layers) is int and full_layers >= 0):
        problems.append(f"max_window_layers is {full_layers!r}, expected a number")
    return problems or _type_problems(config)


def _type_problems(config: Mapping[str, Any]) -> list[str]:
    types = config.get("layer_types")
    if types is None:
        return []
    # One for each layer: Gemma's pattern of a few is another family's.
    layers = config.get("num_hidden_layers")
    if not isinstance(types, list) or len(types) != layers:
        return [f"layer_types is {types!r}, expected a list of {layers}"]
    unknown = {str(kind) for kind in types if kind not in (FULL, SLIDING)}
    if unknown:
        listed = ", ".join(sorted(unknown))
        return [f"layer_types has {listed}, expected {FULL} or {SLIDING}"]
    # transformers fails at such a file as well, once it is given a text.
    if SLIDING in types and read_window(config, len(types)) is None:
        return [f"layer_types has {SLIDING} without a sliding_window that is used"]
    return []


def _slides(config: Mapping[str, Any], layers: int) -> bool:
    types = config.get("layer_types")
    if types is not None:
        return SLIDING in types
    # Older files say after how many layers the windows begin.
    full_layers = config.get("max_window_layers")
    if full_layers is None:
        full_layers = DEFAULT_FULL_LAYERS
    return layers > full_layers
