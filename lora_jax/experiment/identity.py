"""What tells one row from all others: the settings that matter to its numbers.

A setting that was added later, a place on somebody's machine, or an option that the
row's method does not take makes no other row of it.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from lora_jax import methods
from lora_jax.experiment.config import (
    DEFAULT,
    FITTED,
    NO_METHOD,
    ROW_NAMES,
    field_values,
    from_row,
    method_defaults,
    part_of,
)


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a row's config from all others: the settings off their defaults.

    A setting that is added later, at its default, therefore changes no old row's
    identity; nor does an option of a method that the row's method does not take.
    """
    method = config.get("method")
    # What is no run has no defaults: all of its settings count.
    defaults: dict[str, Any] = {}
    if method:
        defaults = {**DEFAULT.flat(), **method_defaults(method)}
    ignored = _ignored(method)
    differing = {}
    for name, value in config.items():
        is_default = name in defaults and value == defaults[name]
        if name not in ignored and not is_default:
            differing[name] = _nested_identity(value)
    return differing


def key(config: Mapping[str, Any]) -> str:
    """Return the key of a row's config: 16 hex digits of the hash of its identity."""
    # One text for one identity: sorted, and without spaces.
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _ignored(method: str | None) -> frozenset[str]:
    """The settings that do not matter to the identity of a run with that method."""
    if method is None:  # a pure computation, or a comparison of several runs
        return frozenset()
    # Old rows have the options of all methods.
    foreign = all_options() - method_defaults(method).keys()
    names = {name for name in foreign if part_of(name) is None}
    # Where the official files lie; `data_source` says which files they are.
    names |= {"data_dir", "glue_dir"}
    # Some old rows have one of them among their settings.
    names |= set(FITTED)
    # Nothing is trained or drawn, so only the dtype of products matters of how.
    if method == NO_METHOD:
        trained = {ROW_NAMES.get(name, name) for name in field_values(DEFAULT.train)}
        names |= trained - {"compute"}
        names |= {"seed", "adapter_dtype"}
    return frozenset(names)


def _nested_identity(value: Any) -> Any:
    if isinstance(value, Mapping):
        return identity(value)
    # 32 and 32.0 are one setting.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@cache
def all_options() -> frozenset[str]:
    """Return the options of every method."""
    # Foreign to a run is what some other method takes and its own does not.
    names: set[str] = set()
    for method in methods.METHODS:
        names |= method_defaults(method).keys()
    return frozenset(names)


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's config with the settings that came later, at their defaults.

    Options that its method does not take are left out, so that old and new rows of one
    run are alike.
    """
    # No run, or several under names of their own.
    if "method" not in config or "data" not in config:
        complete = {}
        for name, value in config.items():
            is_run = isinstance(value, Mapping)
            complete[name] = complete_config(value) if is_run else value
        return complete
    run = from_row(config)
    complete = run.flat()
    for name, value in config.items():
        is_option = part_of(name) is None
        is_foreign = name in all_options()
        # What is left are the measurement's own settings.
        if is_option and not is_foreign and name not in complete:
            complete[name] = value
    return complete


def comparison_key(config: Mapping[str, Any]) -> str:
    """Return the identity of a config but for the seed and the dtype of products."""
    compared = dict(config)
    # Another machine may have another dtype, and results must hold for any seed.
    for name in ("seed", "compute"):
        compared.pop(name, None)
    return key(compared)
