"""What an experiment needs: one row, the runs that it is made from, and how."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.identity import key
from lora_jax.experiment.run import Trained
from lora_jax.results.rows import Row

Settings = Mapping[str, Any]
Measure = Callable[[tuple[Trained, ...], Sequence[Settings]], Iterable[Row | None]]
"""(trained runs, settings of the rows that are missing) -> a row for each of them, with
`metrics` and whatever else; config and provenance are added. None is a row that is left
out this time; the function says why."""


class Measurement(NamedTuple):
    """One row.

    Its runs are trained first, once each, and kept. Without `measure` the row is the
    training's own. Measurements of the same runs are made together, so that they share
    what is computed once, and timed steps can be interleaved.
    """

    runs: tuple[RunConfig, ...] = ()
    settings: Settings = MappingProxyType({})
    measure: Measure | None = None
    # What the row calls its runs, where there are several: ("left", "right").
    names: tuple[str, ...] = ()
    # A training that diverges is a row without scores then, and no failure.
    may_diverge: bool = False

    def config(self) -> dict[str, Any]:
        """Return the row's config: the run's settings, and the measurement's own."""
        config: dict[str, Any] = {}
        # Several runs stand under their names, or their settings would mix.
        if self.names:
            config |= self.settings
            for name, run in zip(self.names, self.runs, strict=True):
                config[name] = run.flat()
            return config
        for run in self.runs:
            config |= run.flat()
        return config | dict(self.settings)

    def key(self) -> str:
        """Return the row's identity."""
        return key(self.config())

    def run_keys(self) -> tuple[str, ...]:
        """Return the identities of its runs."""
        return tuple(key(run.flat()) for run in self.runs)


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name for each config: the settings in which they differ.

    Of a single one: its data and method.
    """
    varying = []
    for name in _names(configs):
        if _varies(name, configs):
            varying.append(name)
    return [_label(config, varying) for config in configs]


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that any config has, in order; not where files are from."""
    # A dict keeps the order, each name once.
    names: dict[str, None] = {}
    for config in configs:
        for name in config:
            # Sources are long, and follow from model and data.
            if not name.endswith("_source"):
                names[name] = None
    return list(names)


def _varies(name: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the configs that have the setting differ in it."""
    # A list, not a set: runs among the values cannot be in a set.
    values: list[Any] = []
    for config in configs:
        if name in config and config[name] not in values:
            values.append(config[name])
    return len(values) > 1


def _label(config: Mapping[str, Any], varying: Sequence[str]) -> str:
    parts = []
    for name in varying:
        if name in config:
            parts.append(f"{name}={_short(config[name])}")
    # One config alone, or configs that are all alike.
    if not parts:
        for name in ("data", "method"):
            parts.append(str(config.get(name, "")))
    return " ".join(parts).strip()


def _short(value: Any) -> str:
    """A setting in a word; of a whole run, which is a dict, its rank and seed."""
    if isinstance(value, Mapping):
        return f"r{value.get('rank', '-')}s{value.get('seed', 0)}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
