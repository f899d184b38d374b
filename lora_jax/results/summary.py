"""From rows to numbers: groups of rows that share their settings, means over seeds.

Everything depends on the set of rows alone, neither on their order nor on the clock, so
that an experiment interrupted and resumed draws the same bytes as one that never
stopped.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lora_jax.results.rows import Row

# Where files lie on somebody's machine: no setting. `data_source` says which they are.
PLACES = ("data_dir", "glue_dir")
# What every heading has already, or what is too long for one.
COMMON = ("data", "model", "method")
UNNAMED = ("model", "data", "model_source", "data_source", *PLACES)


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
        return sorted({row["config"].get("seed", 0) for row in self.rows})

    @property
    def difference(self) -> str:
        """The settings that other groups have otherwise; empty if there are none."""
        return self.name.partition(" · ")[2]

    @property
    def is_smoke(self) -> bool:
        """Whether the model is a tiny random one."""
        return str(self.settings.get("model", "")).startswith("tiny")


def groups(rows: Iterable[Row], axes: Sequence[str]) -> list[Group]:
    """Group the rows by every setting but `axes`, the largest group first."""
    by_settings: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["key"]):
        fixed = _without(row["config"], (*axes, *PLACES))
        text = json.dumps(fixed, sort_keys=True)
        by_settings.setdefault(text, []).append(row)
    ordered = sorted(by_settings, key=lambda text: (-len(by_settings[text]), text))
    settings = [json.loads(text) for text in ordered]
    result = []
    for text, fixed in zip(ordered, settings, strict=True):
        name = _group_name(fixed, settings)
        result.append(Group(name, fixed, by_settings[text]))
    return result


def primary_metric(row: Row) -> str:
    """Return the metric to show: the task's first, on test if there is one."""
    names = list(row["metrics"])
    on_test = [name for name in names if name.startswith("test/")]
    return on_test[0] if on_test else names[0]


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Return one line per row, sorted by key: config, then metrics.

    Nested fields are `a.b`; lists are `x, y`.
    """
    ordered = sorted(rows, key=lambda row: row["key"])
    metrics = pd.DataFrame([row["metrics"] for row in ordered], dtype=float)
    return _settings(ordered).join(metrics)


def summary(
    rows: Iterable[Row],
    *,
    by: Sequence[str],
    metric: str,
    examples: int | None = None,
) -> pd.DataFrame:
    """Average a metric over seeds: one line per value of `by`.

    The columns are mean, std (ddof 1), count, failed (rows without a value), error and
    error_kind. `error` is std / sqrt(count) over several seeds ("seeds"); for one seed
    and an accuracy (a fraction) the binomial sqrt(p (1 - p) / n) ("binomial"), n being
    the evaluated `examples`, from the row unless passed; else NaN ("none").

    Raises:
        ValueError: unknown names; or a group mixes rows that differ in more than fields
            named `*seed`.
    """
    ordered = sorted(rows, key=lambda row: row["key"])
    by = list(by)
    settings = _settings(ordered)
    split, _, name = metric.rpartition("/")
    check_columns(by, settings)
    check_columns([metric], frame(ordered))
    grouped = settings.groupby(by, dropna=False)
    _check_unmixed(grouped, by)
    lines = []
    for _, group in grouped:
        runs = []
        for index in group.index:
            row = ordered[index]
            size = examples or row.get("examples", {}).get(split)
            runs.append((row["metrics"].get(metric), size))
        lines.append(_spread(runs, is_accuracy=name == "accuracy"))
    values = grouped.size().index.to_frame(index=False)
    return values.join(pd.DataFrame(lines))


def scores(
    group: Group, by: Sequence[str], metric: str | None = None, unit: float = 100
) -> pd.DataFrame:
    """Return one line per value of `by`: score, its error, the seeds, the parameters.

    The first columns are the group's data, model and method, where it has them, and
    what tells it from other groups. `metric` is the primary one unless passed; values
    are multiplied by `unit`, by default to percent. Settings that a row does not have
    are empty.
    """
    metric = metric or primary_metric(group.first)
    rows = [_with_settings(row, by) for row in group.rows]
    table = summary(rows, by=by, metric=metric)
    common = [name for name in COMMON if name in group.settings and name not in by]
    result = table[list(by)].copy()
    for position, name in enumerate(common):
        result.insert(position, name, group.settings[name])
    result["metric"] = metric
    result["score"] = unit * table["mean"]
    result["error"] = unit * table["error"]
    result["error of"] = table["error_kind"]
    result["seeds"] = table["count"]
    if "parameters" in group.first:
        result["parameters"] = _parameters(rows, table, by)
    result["settings"] = group.difference
    return result


class Column(NamedTuple):
    """A metric as a column of a table."""

    metric: str
    title: str
    unit: float = 1  # what its values are multiplied by
    has_error: bool = False  # a column `<title> error` beside


def metric_table(
    group: Group, by: Sequence[str], columns: Sequence[Column]
) -> pd.DataFrame:
    """Return one line per value of `by`, and a column for each metric: seeds' means."""
    table = None
    for column in columns:
        averages = summary(group.rows, by=by, metric=column.metric)
        if table is None:
            table = averages[list(by)].copy()
        table[column.title] = column.unit * averages["mean"]
        if column.has_error:
            table[f"{column.title} error"] = column.unit * averages["error"]
    assert table is not None
    return table


def in_order(
    table: pd.DataFrame, column: str, order: Sequence[Any], then: Sequence[str] = ()
) -> pd.DataFrame:
    """Sort by a column in the order of the values passed, others last; then by more."""
    positions = {value: position for position, value in enumerate(order)}
    ranks = table[column].map(positions).fillna(len(positions))
    ordered = table.assign(_order=ranks).sort_values(
        ["_order", column, *then], kind="stable", ignore_index=True
    )
    return ordered.drop(columns="_order")


def means(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Average our score and the paper's over the lines with one value of a column."""
    published = [
        name
        for name in table
        if str(name).startswith("paper ") and not str(name).endswith(" std")
    ]
    averages = table.groupby(by, sort=False)[["score", *published]].mean()
    return averages.reset_index().rename(columns={"score": "ours"})


def pivot(
    table: pd.DataFrame, index: str, columns: str, values: str, prefix: str = ""
) -> pd.DataFrame:
    """Spread a column: `index` down, `columns` across, in the order of the table."""
    order = list(dict.fromkeys(table[index]))
    wide = table.pivot(index=index, columns=columns, values=values).loc[order]
    wide = wide.rename(columns=lambda name: f"{prefix}{name}")
    return wide.rename_axis(columns=None).reset_index()


def plus_minus(
    scores: Iterable[float], errors: Iterable[float], digits: int = 1, sign: str = ""
) -> list[str]:
    """Format `79.7 ± 0.3`; without a known error the score, without a score nothing."""
    texts = []
    for score, error in zip(scores, errors, strict=True):
        text = "" if math.isnan(score) else f"{score:{sign}.{digits}f}"
        if text and not math.isnan(error):
            text += f" ± {error:.{digits}f}"
        texts.append(text)
    return texts


def check_columns(names: Sequence[str], table: pd.DataFrame) -> None:
    """Raise a ValueError with the columns there are, unless it has all the names."""
    unknown = [name for name in names if name not in table.columns]
    if unknown:
        raise ValueError(
            f"unknown column {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(map(str, table.columns))}"
        )


def _without(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


def _group_name(
    settings: Mapping[str, Any], all_settings: Sequence[Mapping[str, Any]]
) -> str:
    """`data, model · name value, …`: the latter in which the groups differ."""
    head = [str(settings[name]) for name in ("data", "model") if name in settings]
    differing = []
    for name, value in settings.items():
        others = [other.get(name) for other in all_settings]
        if name not in UNNAMED and any(other != value for other in others):
            differing.append(f"{name} {value}")
    heading = ", ".join(head)
    return f"{heading} · {', '.join(differing)}" if differing else heading


def _settings(rows: Sequence[Row]) -> pd.DataFrame:
    configs = pd.json_normalize([dict(row["config"]) for row in rows])
    return configs.map(_joined)


def _joined(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value


def _check_unmixed(grouped: Any, by: Sequence[str]) -> None:
    values = grouped.nunique(dropna=False)
    mixed = []
    for field in values:
        is_seed = str(field).endswith("seed")
        if any(values[field] > 1) and not is_seed and field not in PLACES:
            mixed.append(field)
    if mixed:
        raise ValueError(
            f"a group by {by} mixes runs that differ in {mixed}: add these, or choose "
            "the rows first"
        )


def _spread(
    runs: Sequence[tuple[float | None, int | None]], *, is_accuracy: bool
) -> dict[str, Any]:
    """Mean and error of (value, evaluated examples) of one setting's seeds."""
    finished = [(value, size) for value, size in runs if value is not None]
    values = [value for value, _ in finished]
    count = len(values)
    std = error = math.nan
    kind = "none"
    if count > 1:
        std = statistics.stdev(values)
        error = std / math.sqrt(count)
        kind = "seeds"
    elif count == 1 and is_accuracy and finished[0][1]:
        error = _binomial_error(values[0], finished[0][1])
        kind = "binomial"
    return {
        "mean": statistics.fmean(values) if values else math.nan,
        "std": std,
        "count": count,
        "failed": len(runs) - count,
        "error": error,
        "error_kind": kind,
    }


def _binomial_error(accuracy: float, examples: int) -> float:
    if not 0 <= accuracy <= 1:
        raise ValueError(
            f"expected an accuracy as a fraction between 0 and 1, got {accuracy}"
        )
    return math.sqrt(accuracy * (1 - accuracy) / examples)


def _with_settings(row: Row, names: Sequence[str]) -> Row:
    """The row with all of these settings, None where it has none."""
    config = dict.fromkeys(names) | row["config"]
    return {**row, "config": config}


def _parameters(
    rows: Sequence[Row], table: pd.DataFrame, by: Sequence[str]
) -> list[int]:
    """The adapter's trainable parameters in each line of the table."""
    sizes: dict[tuple, int] = {}
    for row in rows:
        values = tuple(_comparable(row["config"][name]) for name in by)
        counts = row["parameters"]
        is_one_number = isinstance(counts, int)
        sizes[values] = counts if is_one_number else counts["adapter"]
    lines = zip(*(table[name] for name in by), strict=True)
    return [sizes[tuple(map(_comparable, line))] for line in lines]


def _comparable(value: Any) -> Any:
    """A value that equals itself in a key: pandas reads an empty one as NaN."""
    is_nan = isinstance(value, float | np.floating) and math.isnan(value)
    return None if is_nan else _joined(value)
