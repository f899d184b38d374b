"""Whether the settings of a run in a row are values that a run can have.

A row's config is text that anybody can edit. What a setting may be is what the field of
a run, or the keyword of its method's constructor, is annotated with.
"""

import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lora_jax import methods
from lora_jax.experiment.config import (
    NO_METHOD,
    ROW_NAMES,
    RUN_FIELDS,
    DataConfig,
    RunConfig,
    method_defaults,
)
from lora_jax.experiment.identity import all_options
from lora_jax.generation import Decoding
from lora_jax.results import row_fields
from lora_jax.results.row_fields import Kind, Needs
from lora_jax.train import TrainConfig

PARTS = (DataConfig, TrainConfig, Decoding)
# JSON has one kind of number: 3 is a float setting's 3.0.
SCALARS: Mapping[Any, Kind] = {
    bool: row_fields.SWITCH,
    int: row_fields.WHOLE,
    float: row_fields.NUMBER,
    str: row_fields.TEXT,
    types.NoneType: Kind("null", lambda value: value is None),
}


def problems(row: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each setting of a run that no run can have.

    Settings that a run does not have are a measurement's own, and are left alone.
    """
    return _problems(row["config"], "config")


def is_run(config: Mapping[str, Any]) -> bool:
    """Return whether a config is that of one run, not of several or of none."""
    return "method" in config and "data" in config


def applicable(needs: Needs, config: Mapping[str, Any]) -> Needs:
    """Return the needs without options that the method of the config does not take."""
    method = config.get("method")
    if not is_run(config) or not isinstance(method, str):
        return needs
    foreign = all_options() - method_defaults(method).keys()
    paths = {f"config.{name}" for name in foreign}
    return {path: kind for path, kind in needs.items() if path not in paths}


def _problems(config: Mapping[str, Any], place: str) -> list[str]:
    result = []
    if not is_run(config):
        # Several runs stand under names of their own.
        for name, value in config.items():
            if isinstance(value, Mapping):
                result += _problems(value, f"{place}.{name}")
        return result
    method = config["method"]
    names = (NO_METHOD, *methods.METHODS)
    # Its options can be judged only if it is known.
    if not isinstance(method, str) or method not in names:
        listed = ", ".join(names)
        value = row_fields.excerpt(method)
        return [f"{place}.method: expected one of {listed}, got {value}"]
    kinds = {**_run_kinds(), **_option_kinds(method)}
    for name, value in config.items():
        if name in kinds and not kinds[name].allows(value):
            came = row_fields.excerpt(value)
            result.append(f"{place}.{name}: expected {kinds[name].words}, got {came}")
    return result


@cache
def _run_kinds() -> dict[str, Kind]:
    """What the fields of a run may be, by row name."""
    hints = get_type_hints(RunConfig)
    kinds = {name: _kind(hints[name]) for name in RUN_FIELDS}
    for part in PARTS:
        for name, annotation in get_type_hints(part).items():
            kinds[ROW_NAMES.get(name, name)] = _kind(annotation)
    return kinds


@cache
def _option_kinds(method: str) -> dict[str, Kind]:
    """What the options of a method may be."""
    if method == NO_METHOD:
        return {}
    hints = get_type_hints(methods.METHODS[method])
    options = method_defaults(method)
    return {name: _kind(hints[name]) for name in options if name in hints}


def _kind(annotation: Any) -> Kind:
    """The values of JSON that an annotation allows."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        return row_fields.one_of(*arguments)
    if origin in (Union, types.UnionType):
        kinds = list(map(_kind, arguments))
        words = " or ".join(kind.words for kind in kinds)
        return Kind(words, lambda value: any(kind.allows(value) for kind in kinds))
    if annotation in SCALARS:
        return SCALARS[annotation]
    # Of lists and objects JSON says no more than that they are one.
    container = origin or annotation
    is_object = isinstance(container, type) and issubclass(container, Mapping)
    return row_fields.OBJECT if is_object else row_fields.LIST
