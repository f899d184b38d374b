"""Groups of rows that share their settings, and differ only in an experiment's axes.

A group depends on the set of rows alone, not on their order.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import PurePath
from typing import Any, NamedTuple, Protocol

from lora_jax.results.rows import Row

# Where files lie on somebody's machine: no setting. `data_source` says which they are.
PLACES = ("data_dir", "glue_dir")
# What tells a file from a hub id.
SUFFIXES = (".gguf", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".zip", ".xml")
# What every heading has already, or what is too long for one.
UNNAMED = ("model", "data", "model_source", "data_source", *PLACES)


def short_name(value: str) -> str:
    """Return a model's or a data set's name; of a path, its last part.

    A hub id, OWNER/NAME, is no path: it stays as it is.
    """
    parts = value.replace("\\", "/").rstrip("/").split("/")
    is_hub_id = len(parts) == 2 and parts[0] not in ("", ".", "..", "~")
    if is_hub_id and not value.lower().endswith(SUFFIXES):
        return value
    return parts[-1]


class Named(Protocol):
    """What has the name of a group: a group, or one of a sweep."""

    @property
    def name(self) -> str:
        """The heading of its section."""
        ...


class Group(NamedTuple):
    """Rows that differ only in the axes of their experiment."""

    name: str  # "rotten-tomatoes, minilm-l6", and in what it differs from other groups
    settings: dict[str, Any]  # those that all its rows share
    rows: list[Row]

    @property
    def first(self) -> Row:
        """Any row: they are alike but for the axes."""
        return self.rows[0]

    @property
    def seeds(self) -> list[int]:
        """The seeds there are rows of."""
        seeds = set()
        for row in self.rows:
            seeds.add(row["config"].get("seed", 0))
        return sorted(seeds)

    @property
    def difference(self) -> str:
        """The settings that other groups have otherwise; empty if there are none."""
        return self.name.partition(" · ")[2]

    @property
    def is_smoke(self) -> bool:
        """Whether the model is a tiny random one."""
        model = str(self.settings.get("model", ""))
        return model.startswith("tiny")


def groups(rows: Iterable[Row], axes: Sequence[str]) -> list[Group]:
    """Group the rows by every setting but `axes`, the largest group first."""
    # JSON text as the key: a dict cannot be one.
    by_settings: dict[str, list[Row]] = {}
    for row in sorted(rows, key=itemgetter("key")):
        fixed = _without(row["config"], (*axes, *PLACES))
        text = json.dumps(fixed, sort_keys=True)
        by_settings.setdefault(text, []).append(row)

    # By text, then by size: sorting is stable, so groups of one size keep their order.
    ordered = sorted(by_settings.items())
    ordered.sort(key=_size, reverse=True)
    settings = []
    for text, _ in ordered:
        settings.append(json.loads(text))
    result = []
    for fixed, (_, rows_of_group) in zip(settings, ordered, strict=True):
        # A name depends on all groups: it says in what they differ.
        name = _group_name(fixed, settings)
        result.append(Group(name, fixed, rows_of_group))
    return result


def split_by(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple, list[Row]]:
    """Return the rows by the values of these settings, in order of appearance."""
    parts: dict[tuple, list[Row]] = {}
    for row in rows:
        values = tuple(row["config"][name] for name in names)
        parts.setdefault(values, []).append(row)
    return parts


def primary_metric(row: Row) -> str:
    """Return the metric to show: the task's first, on test if there is one."""
    names = list(row["metrics"])
    # The task's order of metrics counts within a split.
    for name in names:
        if name.startswith("test/"):
            return name
    return names[0]


def _size(item: tuple[str, list[Row]]) -> int:
    return len(item[1])


def _without(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The configuration without these settings."""
    kept = {}
    for name, value in config.items():
        if name not in names:
            kept[name] = value
    return kept


def _group_name(
    settings: Mapping[str, Any], all_settings: Sequence[Mapping[str, Any]]
) -> str:
    """`data, model · name value, …`: the latter in which the groups differ."""
    head = []
    for name in ("data", "model"):
        if name in settings:
            head.append(short_name(str(settings[name])))
    heading = ", ".join(head)
    differing = []
    for name, value in settings.items():
        # Two files of one name are told apart by their folders.
        if _is_ambiguous(name, settings, all_settings):
            folder = PurePath(str(value)).parent.name
            differing.append(f"{name} in {folder}")
        if name in UNNAMED:
            continue
        # A setting that another group lacks counts as a difference.
        if any(other.get(name) != value for other in all_settings):
            differing.append(f"{name} {value}")
    if not differing:
        return heading
    difference = ", ".join(differing)
    return f"{heading} · {difference}"


def _is_ambiguous(
    name: str, settings: Mapping[str, Any], all_settings: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether another model, or other data, has the same short name."""
    if name not in ("data", "model"):
        return False
    value = str(settings.get(name))
    for other in all_settings:
        path = str(other.get(name))
        if path != value and short_name(path) == short_name(value):
            return True
    return False
