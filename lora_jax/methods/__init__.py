"""Adaptation methods, one per file. Adding one is a file and a line of METHODS."""

import inspect
from typing import Any

from lora_jax import tree
from lora_jax.methods.base import (
    HEAD,
    Counts,
    Method,
    adapters,
    counts,
    mask,
    merge,
    targets,
    unload,
)
from lora_jax.methods.bitfit import bitfit
from lora_jax.methods.bottleneck import Adapter, adapter_h, adapter_l
from lora_jax.methods.full import full
from lora_jax.methods.lora import LoRA, lora
from lora_jax.methods.lora_from_delta import lora_from_delta
from lora_jax.methods.prefix import PrefixLayer, prefix
from lora_jax.methods.top_layers import top

METHODS = {
    "lora": lora,
    "full": full,
    "bitfit": bitfit,
    "top": top,
    "adapter_h": adapter_h,
    "adapter_l": adapter_l,
    "prefix": prefix,
}


def make(name: str, **settings: Any) -> Method:
    """The method of that name, with those of the settings that its constructor takes. Raises what `options` raises."""
    taken = options(name)
    return METHODS[name](
        **{key: value for key, value in settings.items() if key in taken}
    )


# Options that share compiled programs between the runs of a sweep: no flags.
INTERNAL_OPTIONS = ("pad", "beside")


def defaults(name: str) -> dict[str, Any]:
    """Return the options of a method, those of its constructor, with their defaults.

    Raises:
        ValueError: there is no such method; names the ones there are.
    """
    names = options(name)
    parameters = inspect.signature(METHODS[name]).parameters
    return {
        option: parameters[option].default
        for option in names
        if option not in INTERNAL_OPTIONS
    }


def options(name: str) -> tuple[str, ...]:
    """The settings that the constructor of the method takes.

    Raises:
        ValueError: there is no such method; names the ones there are.
    """
    if name not in METHODS:
        raise ValueError(
            f"method: expected one of {tree.near(name, list(METHODS))}, got {name!r}"
        )
    return tuple(inspect.signature(METHODS[name]).parameters)


__all__ = [
    "HEAD",
    "METHODS",
    "Adapter",
    "Counts",
    "LoRA",
    "Method",
    "PrefixLayer",
    "adapter_h",
    "adapter_l",
    "adapters",
    "bitfit",
    "counts",
    "defaults",
    "full",
    "lora",
    "lora_from_delta",
    "make",
    "mask",
    "merge",
    "options",
    "prefix",
    "targets",
    "top",
    "unload",
]
