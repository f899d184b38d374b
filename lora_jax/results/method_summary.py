"""Rows of methods that generate text, as numbers: a line for each method.

A method that was run with several settings, as two learning rates, has a line for each
of them. Methods are not known here: a row's config holds the options of its own method,
and what some rows lack is an option of others.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lora_jax.results.rows import Row
from lora_jax.results.summary import PLACES, Group

PRETRAINED = "none"  # the method of a row in which nothing was trained
# What papers call the methods, in the order of their tables.
NAMES = {
    PRETRAINED: "as pretrained",
    "full": "full fine-tuning",
    "top": "FT-Top2",
    "bitfit": "BitFit",
    "adapter_l": "Adapter^L",
    "adapter_h": "Adapter^H",
    "prefix": "PreLayer",
    "lora": "LoRA",
}
# The paper's spelling of our methods in its tables of scores.
PUBLISHED_NAMES = {
    "Fine-Tune": "full",
    "BitFit": "bitfit",
    "FTTop2": "top",
    "AdapterL": "adapter_l",
    "AdapterH": "adapter_h",
    "PrefixLayer": "prefix",
    "LoRA": "lora",
}
# What papers call the metrics of generated text, in the order of their tables.
METRICS = {
    "bleu": "BLEU",
    "nist": "NIST",
    "meteor": "METEOR",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "chrf": "chrF",
    "ter": "TER",
    "exact_match": "exact match",
}
# Bits a word, and a score up to 10: these are no shares, and not in per cent.
UNITLESS = ("nist", "cider")
LOSS = "validation/loss"  # nats a token
# The first columns of settings; options of further methods come after them.
SETTINGS = (
    "learning_rate",
    "quantize",
    "targets",
    "rank",
    "alpha",
    "dropout",
    "init",
    "rank_stabilized",
    "bias",
    "bottleneck",
    "prefix_length",
    "top_layers",
)
# Settings that vary in every table, but are no columns of it.
VARYING = ("method", "seed")


def axes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the settings that vary within a table: method, seed and the options."""
    names = dict.fromkeys([*VARYING, *SETTINGS])
    for row in rows:
        config = row["config"]
        for other in rows:
            # What only one of two rows has is an option of its method.
            for name in sorted(config.keys() - other["config"].keys()):
                names[name] = None
    return tuple(names)


def columns_of_settings(group: Group) -> list[str]:
    """Return the settings of the group's methods, `SETTINGS` first."""
    # What all rows share is a setting of the group.
    others: set[str] = set()
    for row in group.rows:
        others |= row["config"].keys() - group.settings.keys()
    others -= {*SETTINGS, *VARYING, *PLACES}
    return [*SETTINGS, *sorted(others)]


def by_setting(group: Group) -> dict[str, list[Row]]:
    """Return the rows of each method by its name, in the papers' order.

    The name is `LoRA`; of a method with several settings `LoRA, learning_rate 0.01`,
    those in which they differ. The rows of a name are those of its seeds, in order.
    """
    names = columns_of_settings(group)
    rows_by_setting: dict[tuple, list[Row]] = {}
    for row in sorted(group.rows, key=_seed):
        config = row["config"]
        items = method_settings(config, names).items()
        setting = (config["method"], *items)
        rows_by_setting.setdefault(setting, []).append(row)
    # Names come last, as they tell a setting from all others.
    result = {}
    for setting in sorted(rows_by_setting, key=_position):
        name = _name(setting, list(rows_by_setting))
        result[name] = rows_by_setting[setting]
    return result


def method_settings(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return what matters to a row's method; without training, its format alone."""
    if config["method"] == PRETRAINED:
        names = ["quantize"]
    return {name: config[name] for name in names if name in config}


def metric_names(row: Row) -> list[str]:
    """Return the metrics to show: validation's loss, then as papers order them."""
    # Of validation only the loss is shown: its texts are not generated.
    names = []
    for name in row["metrics"]:
        if not name.startswith("validation/"):
            names.append(name)
    return [LOSS, *sorted(names, key=_metric_position)]


def first_score(row: Row) -> str:
    """Return the metric that a figure shows: the first of the texts' scores."""
    scores = metric_names(row)[1:]
    return scores[0] if scores else LOSS


def unit_of(metric: str) -> float:
    """Return the factor of a metric: 100 for shares, which are shown in per cent."""
    if metric == LOSS or base_name(metric) in UNITLESS:
        return 1
    return 100


def base_name(metric: str) -> str:
    """Return the name of a metric without its split."""
    return metric.rpartition("/")[2]


def axis_label(metric: str) -> str:
    """Return a metric as an axis of a figure reads: `test BLEU, %`."""
    split = metric.partition("/")[0]
    name = base_name(metric)
    printed = METRICS.get(name, name)
    label = f"{split} {printed}"
    if unit_of(metric) == 100:
        label += ", %"
    return label


def summary(group: Group) -> pd.DataFrame:
    """Return a line for each setting of a method.

    It has the method's settings, its parameters, each metric's mean over seeds and its
    standard error (NaN for one seed), speeds in tokens a second, and the seconds.
    `score` and `error` are those of the first score.
    """
    names = columns_of_settings(group)
    lines = []
    for label, rows in by_setting(group).items():
        config = rows[0]["config"]
        line: dict[str, Any] = {
            "data": config["data"],
            "model": config["model"],
            "method": config["method"],
            "called": label,
        }
        # Settings of other methods stay empty.
        line |= dict.fromkeys(names)
        line |= method_settings(config, names)
        # A method's parameters do not depend on the seed.
        line["parameters"] = rows[0]["parameters"]["adapter"]
        line["seeds"] = len(rows)
        line |= _scores(rows)
        line |= _speeds(rows)
        line["settings"] = group.difference
        lines.append(line)
    return pd.DataFrame(lines)


def _scores(rows: Sequence[Row]) -> dict[str, Any]:
    """Each metric's mean over rows, and its error."""
    line: dict[str, Any] = {}
    metrics: dict[str, None] = {}
    for row in rows:
        metrics |= dict.fromkeys(metric_names(row))
    for name in metrics:
        values = []
        for row in rows:
            # METEOR is missing from rows of a machine without Java, and what diverged
            # has no score.
            value = row["metrics"].get(name)
            if value is not None:
                values.append(unit_of(name) * value)
        line[name] = statistics.fmean(values) if values else math.nan
        line[f"{name} error"] = _standard_error(values)
    # The columns in which rows of another machine are compared with these.
    metric = first_score(rows[0])
    line["metric"] = metric
    line["score"] = line[metric]
    line["error"] = line[f"{metric} error"]
    return line


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    return statistics.stdev(values) / math.sqrt(len(values))


def _speeds(rows: Sequence[Row]) -> dict[str, float]:
    training = [row["tokens_per_second"] for row in rows]
    writing = []
    for row in rows:
        for texts in row["written"].values():
            writing.append(texts["tokens_per_second"])
    seconds = [row["seconds"] for row in rows]
    return {
        "tokens per second": statistics.fmean(training),
        "written tokens per second": statistics.fmean(writing),
        "seconds": statistics.fmean(seconds),
    }


def _seed(row: Row) -> int:
    return row["config"]["seed"]


def _position(setting: tuple) -> tuple:
    """Where a setting of a method stands: as in the papers, then by its values."""
    method, *items = setting
    index = _index(method, NAMES)
    # Numbers by their size: rank 16 comes after rank 4.
    numbers = [value for _, value in items if isinstance(value, int | float)]
    return index, method, numbers, str(items)


def _metric_position(name: str) -> tuple[str, int]:
    """Where a metric stands: by its split, then as in the papers."""
    split, _, metric = name.partition("/")
    return split, _index(metric, METRICS)


def _index(name: str, names: Mapping[str, str]) -> int:
    """The index of a name; unknown ones come last."""
    order = list(names)
    # No error: a new method has a line before it has a name here.
    if name in order:
        return order.index(name)
    return len(order)


def _name(setting: tuple, settings: Sequence[tuple]) -> str:
    """The paper's name of a method, and in what it differs from others of its kind."""
    method, *items = setting
    same_method = []
    for other_method, *other_items in settings:
        if other_method == method:
            same_method.append(dict(other_items))
    parts = [str(NAMES.get(method, method))]
    for name, value in items:
        # Only what differs: most settings are alike.
        if any(other.get(name) != value for other in same_method):
            parts.append(f"{name} {value}")
    return ", ".join(parts)
