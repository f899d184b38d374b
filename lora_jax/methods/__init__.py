"""Adaptation methods, one in a file. Another one is a file and a line of `METHODS`.

The keywords of a method's constructor are its options. Command-line flags, sweeps,
counting, saving, merging and the conformance tests follow from `METHODS`.
"""

import inspect
from typing import Any

from lora_jax import tree
from lora_jax.methods.adapter_dtype import ADAPTER_DTYPES, with_adapter_dtype
from lora_jax.methods.base import (
    HEAD,
    Counts,
    Method,
    adapters,
    counts,
    mask,
    targets,
)
from lora_jax.methods.bitfit import bitfit
from lora_jax.methods.bottleneck import BottleneckAdapter, adapter_h, adapter_l
from lora_jax.methods.full import full
from lora_jax.methods.head import head
from lora_jax.methods.lora import LoRA, lora
from lora_jax.methods.lora_from_delta import lora_from_delta
from lora_jax.methods.merge import merge, unload
from lora_jax.methods.prefix import PrefixLayer, prefix
from lora_jax.methods.top_layers import top

# By the names that the command line and the rows of results use.
METHODS = {
    "lora": lora,
    "full": full,
    "head": head,
    "bitfit": bitfit,
    "top": top,
    "adapter_h": adapter_h,
    "adapter_l": adapter_l,
    "prefix": prefix,
}

# They train what the model has, and add nothing to it.
WITHOUT_ADAPTERS = ("full", "head", "bitfit", "top")

# Options that change how adapters are stored but not what they compute. They let the
# runs of a sweep share compiled programs, and are no command-line flags.
INTERNAL_OPTIONS = ("rank_multiple", "idle_targets")


def make(name: str, **settings: Any) -> Method:
    """Return the method of that name, with those settings that its constructor takes.

    Settings of other methods are ignored.

    Raises:
        ValueError: there is no such method, lists the methods; or a setting is outside
            its range.
    """
    names = options(name)
    # A sweep over methods passes the settings of all of them to each.
    method_settings = {}
    for option, value in settings.items():
        if option in names:
            method_settings[option] = value
    return METHODS[name](**method_settings)


def options(name: str) -> tuple[str, ...]:
    """Return the names of a method's options, which its constructor takes.

    Raises:
        ValueError: there is no such method; lists the methods.
    """
    if name not in METHODS:
        # The nearest names first.
        candidates = tree.near(name, list(METHODS))
        raise ValueError(f"method: expected one of {candidates}, got {name!r}")
    # The constructor's signature is the only place that declares options.
    return tuple(inspect.signature(METHODS[name]).parameters)


def defaults(name: str) -> dict[str, Any]:
    """Return a method's options with their defaults, without the internal ones.

    Raises:
        ValueError: there is no such method; lists the methods.
    """
    names = options(name)
    parameters = inspect.signature(METHODS[name]).parameters
    default_by_option = {}
    for option in names:
        # Internal options are not the user's to set.
        if option not in INTERNAL_OPTIONS:
            default_by_option[option] = parameters[option].default
    return default_by_option


__all__ = [
    "ADAPTER_DTYPES",
    "HEAD",
    "INTERNAL_OPTIONS",
    "METHODS",
    "WITHOUT_ADAPTERS",
    "BottleneckAdapter",
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
    "head",
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
    "with_adapter_dtype",
]
