"""From rows to numbers: tables of means over seeds, with their errors.

Everything depends on the set of rows alone, neither on their order nor on the clock, so
that an experiment interrupted and resumed draws the same bytes as one that never
stopped. Groups of rows are made in `grouping`, and tables arranged in `arranging`.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lora_jax.results.arranging import (
    check_columns,
    in_order,
    means,
    pivot,
    plus_minus,
)
from lora_jax.results.grouping import PLACES, Group, groups, primary_metric, split_by
from lora_jax.results.rows import Row

__all__ = [
    "PLACES",
    "Column",
    "Group",
    "check_columns",
    "frame",
    "groups",
    "in_order",
    "means",
    "metric_table",
    "pivot",
    "plus_minus",
    "primary_metric",
    "scores",
    "split_by",
    "summary",
    "with_names",
]

# The first columns of a table of scores, where the group has them.
COMMON = ("data", "model", "method")


class Column(NamedTuple):
    """A metric as a column of a table."""

    metric: str
    title: str
    unit: float = 1  # what its values are multiplied by
    has_error: bool = False  # a column `<title> error` beside


class Run(NamedTuple):
    """What a row has on a metric."""

    value: float | None  # None where the run diverged
    examples: int | None  # evaluated


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Return one line per row, sorted by key: config, then metrics.

    Nested fields are `a.b`; lists are `x, y`.
    """
    ordered = sorted(rows, key=itemgetter("key"))
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
    ordered = sorted(rows, key=itemgetter("key"))
    by = list(by)
    settings = _settings(ordered)
    split, _, name = metric.rpartition("/")
    # Names first, then whether a line would mix settings.
    check_columns(by, settings)
    check_columns([metric], frame(ordered))
    grouped = settings.groupby(by, dropna=False)
    _check_unmixed(grouped, by)
    lines = []
    for _, group in grouped:
        runs = []
        for index in group.index:
            row = ordered[index]
            sizes = row.get("examples", {})
            run = Run(
                value=row["metrics"].get(metric),
                examples=examples or sizes.get(split),
            )
            runs.append(run)
        lines.append(_spread(runs, is_accuracy=name == "accuracy"))
    # One line for each group, in the same order.
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
    # An axis of the group is a column already.
    result = pd.DataFrame(index=table.index)
    for name in COMMON:
        if name in group.settings and name not in by:
            result[name] = group.settings[name]
    for name in by:
        result[name] = table[name]
    result["metric"] = metric
    result["score"] = unit * table["mean"]
    result["error"] = unit * table["error"]
    result["error of"] = table["error_kind"]
    result["seeds"] = table["count"]
    # Experiments that train nothing have no count.
    if all("parameters" in row for row in rows):
        result["parameters"] = _parameters(rows, table, by)
    result["settings"] = group.difference
    return result


def metric_table(
    group: Group, by: Sequence[str], columns: Sequence[Column]
) -> pd.DataFrame:
    """Return one line per value of `by`, and a column for each metric: seeds' means."""
    rows = [_with_settings(row, by) for row in group.rows]
    table = None
    for column in columns:
        averages = summary(rows, by=by, metric=column.metric)
        if table is None:
            table = averages[list(by)].copy()
        table[column.title] = column.unit * averages["mean"]
        if column.has_error:
            table[f"{column.title} error"] = column.unit * averages["error"]
    assert table is not None
    return table


def with_names(table: pd.DataFrame, group: Group) -> pd.DataFrame:
    """Return the table with the group's data, model and settings as its last columns."""
    return table.assign(
        data=group.settings.get("data", ""),
        model=group.settings.get("model", ""),
        settings=group.difference,
    )


def _settings(rows: Sequence[Row]) -> pd.DataFrame:
    """A line for each row, and a column for each field: `method.name` if nested."""
    configs = [dict(row["config"]) for row in rows]
    return pd.json_normalize(configs).map(_joined)


def _joined(value: Any) -> Any:
    # pandas cannot group by lists.
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value


def _check_unmixed(grouped: Any, by: Sequence[str]) -> None:
    """Raise a ValueError with the fields that differ within a group."""
    values = grouped.nunique(dropna=False)
    mixed = []
    for field in values:
        # What a mean is taken over, and what is no setting, may differ.
        if str(field).endswith("seed") or field in PLACES:
            continue
        if any(values[field] > 1):
            mixed.append(field)
    if mixed:
        raise ValueError(
            f"a group by {by} mixes runs that differ in {mixed}: add these, or choose "
            "the rows first"
        )


def _spread(runs: Sequence[Run], *, is_accuracy: bool) -> dict[str, Any]:
    """Mean and error of one setting's runs, which differ in their seeds."""
    values = []
    examples = None
    for run in runs:
        if run.value is not None:
            values.append(run.value)
            examples = run.examples
    count = len(values)
    mean = statistics.fmean(values) if values else math.nan
    std = math.nan
    error = math.nan
    kind = "none"
    if count > 1:
        std = statistics.stdev(values)
        error = std / math.sqrt(count)
        kind = "seeds"
    # One seed does not say how seeds differ, but how far its examples can be trusted.
    elif count == 1 and is_accuracy and examples:
        error = _binomial_error(values[0], examples)
        kind = "binomial"
    return {
        "mean": mean,
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
    variance = accuracy * (1 - accuracy) / examples
    return math.sqrt(variance)


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
        counts = row["parameters"]
        # Some experiments train no head, and record one number.
        size = counts if isinstance(counts, int) else counts["adapter"]
        sizes[_values(row["config"], by)] = size
    lines = table.to_dict("records")
    return [sizes[_values(line, by)] for line in lines]


def _values(config: Mapping[Any, Any], names: Sequence[str]) -> tuple:
    """The values of these settings, as a key."""
    return tuple(_comparable(config[name]) for name in names)


def _comparable(value: Any) -> Any:
    """A value that equals itself in a key: pandas reads an empty one as NaN."""
    is_float = isinstance(value, float | np.floating)
    if is_float and math.isnan(value):
        return None
    return _joined(value)
