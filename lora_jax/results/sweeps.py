"""Sweeps over sets of matrices: lines at one shared learning rate, or at their best.

Sets of matrices want different learning rates, so lines that share one compare rates as
much as matrices. Where rows of several rates are there, each line is shown at the one
with the best validation score. The head alone, trained without any adapter, is the
baseline of all lines.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from lora_jax.metric_order import higher_is_better
from lora_jax.results.baselines import majority_share, predicts_one_class
from lora_jax.results.grouping import Group, groups, primary_metric, split_by
from lora_jax.results.rows import Row
from lora_jax.results.summary import scores

RATE = "learning_rate"
HEAD = "head"  # the method that trains the task's head alone
BY = ("targets", "rank")  # what tells the lines of a sweep
VALIDATION = "validation/"

SHARED_RATE = """All lines have one learning rate here, and sets of matrices want
different ones: **the lines compare rates as much as matrices**. Measured on MiniLM, the
film reviews and this setting (2,000 rows, three epochs, one seed; LOG.md): {query} scores
75.0 (r = 1) and 76.2 (r = 64) at 5e-3, and 60.3 and 68.7 at 1e-3; at 5e-3 {key} scores
73.6, {output} 78.2, and {query,value} 78.7 to 80.2; all six matrices (r = 8) fall to
chance at 2e-3, and reach 80.1 at 5e-4. `--learning-rate auto` trains each set at three
rates and shows its best. Until that has been run with several seeds, how much the choice
of matrices matters is not decided."""


class SweepGroup(NamedTuple):
    """Rows that differ in the axes of a sweep, and the head alone beside them."""

    group: Group
    heads: list[Row]
    at_best_rates: bool  # each line at its own, else all at one
    is_first: bool  # on its page
    difference: str  # what tells its lines from others', the rate included

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all of its rows share."""
        return self.group.settings

    @property
    def table(self) -> pd.DataFrame:
        """A line for each set of matrices and rank, as `results.scores` has them."""
        # Where it varies, the rate is a column.
        by = (*BY, RATE) if self.at_best_rates else BY
        table = scores(self.group, by=by)
        # A method that adapts no matrices has a line under its own name.
        targets = table["targets"].astype(object)
        named = targets.where(targets.notna(), self.settings["method"])
        return table.assign(targets=named, settings=self.difference)

    @property
    def claim_suffix(self) -> str:
        """How statements end: the learning rates that they hold for."""
        rates = (
            "each at its best rate" if self.at_best_rates else "at one learning rate"
        )
        return f", {rates}"

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the rates, and what the baselines score."""
        notes = []
        if self.at_best_rates:
            notes.append(_rates_note(self.group))
        # The numbers of a random model mean nothing, whatever its rate.
        elif self.is_first and not self.group.is_smoke:
            notes.append(" ".join(SHARED_RATE.split()))
        notes += filter(None, (_baselines(self), _collapsed(self)))
        return notes


def sweep_groups(rows: Iterable[Row]) -> list[SweepGroup]:
    """Return the groups of a sweep: those at best rates, then one for each shared rate.

    Within both the largest comes first.
    """
    sweep, heads = _without_heads(rows)
    result: list[SweepGroup] = []
    # Rows of several rates are in one group here, and in several below.
    differences = {}
    for group in groups(sweep, axes=(*BY, "seed", RATE)):
        differences[_settings_key(group)] = group.difference
        best = _at_best_rates(group)
        if best is not None:
            fitting = _fitting(heads, group)
            is_first = not result
            result.append(SweepGroup(best, fitting, True, is_first, best.difference))
    for group in groups(sweep, axes=(*BY, "seed")):
        # The rate is always named, so that one's own lines find the reference's,
        # whatever other rates there are.
        rate = f"{RATE} {group.settings[RATE]}"
        parts = [differences[_settings_key(group)], rate]
        difference = ", ".join(filter(None, parts))
        fitting = _fitting(heads, group)
        is_first = not result
        result.append(SweepGroup(group, fitting, False, is_first, difference))
    return result


def best_rate(rows: Sequence[Row]) -> float:
    """Return the learning rate whose rows have the best validation score.

    It is the mean over seeds. Of rates with fewer scores, because some of their runs
    diverged or are still to come, none is chosen.
    """
    ranked = []
    for (rate,), part in split_by(rows, [RATE]).items():
        values = _validation_scores(part)
        mean = statistics.fmean(values) if values else -math.inf
        # Of equal scores the lower rate's, on which less can go wrong.
        ranked.append((len(values), mean, -rate))
    return -max(ranked)[-1]


def _validation_scores(rows: Sequence[Row]) -> list[float]:
    """The rows' scores by the metric that chose their epochs; a higher one is better."""
    values = []
    for row in rows:
        name = _validation_metric(row)
        value = row["metrics"][name]
        if value is not None:
            is_higher = higher_is_better(name.partition("/")[2])
            values.append(value if is_higher else -value)
    return values


def _validation_metric(row: Row) -> str:
    # The first one of validation; a row without has its primary one.
    for name in row["metrics"]:
        if name.startswith(VALIDATION):
            return name
    return primary_metric(row)


def _settings_key(group: Group) -> str:
    """The settings of a group but for the learning rate, as a key."""
    settings = {**group.settings, RATE: None}
    return json.dumps(settings, sort_keys=True)


def _at_best_rates(group: Group) -> Group | None:
    """The rows at the best rate of each line; None where no line has several rates."""
    chosen: list[Row] = []
    rates = set()
    for line in split_by(_with_lines(group.rows), BY).values():
        by_rate = split_by(line, [RATE])
        # Without a choice a line would stand lower than those that have one.
        if len(by_rate) > 1:
            rates |= {rate for (rate,) in by_rate}
            best = best_rate(line)
            chosen += by_rate[best,]
    if not chosen:
        return None
    listed = ", ".join(f"{rate:g}" for rate in sorted(rates))
    # After the settings in which the group differs from others.
    separator = ", " if group.difference else " · "
    name = f"{group.name}{separator}best {RATE} of {listed}"
    return Group(name, group.settings, chosen)


def _with_lines(rows: Iterable[Row]) -> list[Row]:
    """The rows with all that tells a line, None where their method has no such option."""
    complete = []
    for row in rows:
        config = dict.fromkeys(BY) | row["config"]
        complete.append({**row, "config": config})
    return complete


def _without_heads(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the sweep, and those of the head alone."""
    heads = []
    others = []
    for row in rows:
        is_head = row["config"].get("method") == HEAD
        part = heads if is_head else others
        part.append(row)
    # By themselves they are what there is to show.
    return (others, heads) if others else (heads, [])


def _fitting(heads: Iterable[Row], group: Group) -> list[Row]:
    """The rows of the head alone that have the settings of a group, its method apart."""
    fitting = []
    for row in heads:
        config = row["config"]
        shared = (group.settings.keys() & config.keys()) - {"method"}
        if all(config[name] == group.settings[name] for name in shared):
            fitting.append(row)
    return fitting


def _rates_note(group: Group) -> str:
    metric = _validation_metric(group.first)
    note = (
        f"Each line has the learning rate with the best {metric} of those that it was "
        "trained at, mean over seeds."
    )
    # Choice and score from the same rows: the maximum of several noisy scores.
    if primary_metric(group.first).startswith(VALIDATION):
        note += (
            " The scores are of the same rows that chose the rates, and so too high: "
            "that favors all lines alike, as far as they have as many rates."
        )
    return note


def _baselines(sweep: SweepGroup) -> str:
    """What the head alone and the largest class score; empty where nobody knows."""
    metric = primary_metric(sweep.group.first)
    split, _, name = metric.partition("/")
    texts = []
    if sweep.heads:
        texts.append(f"the head alone, without an adapter, {_head_score(sweep)}")
    # As a share of the rows it is comparable with an accuracy alone.
    majority = majority_share([*sweep.group.rows, *sweep.heads], split)
    if majority is not None and name == "accuracy":
        texts.append(f"the largest class throughout {100 * majority:.1f}")
    return f"Baselines: {'; '.join(texts)}." if texts else ""


def _head_score(sweep: SweepGroup) -> str:
    # At its own best rate where the lines are at theirs.
    rate = best_rate(sweep.heads)
    chosen = split_by(sweep.heads, [RATE])[rate,]
    table = scores(Group("", {}, chosen), by=("method",))
    line = table.iloc[0]
    text = f"{line['score']:.1f}"
    if not math.isnan(line["error"]):
        text += f" ± {line['error']:.1f}"
    return f"{text} (learning rate {rate:g})"


def _collapsed(sweep: SweepGroup) -> str:
    """Which lines learned nothing; empty if none did, or nobody knows."""
    labels: dict[str, None] = {}
    for row in (*sweep.group.rows, *sweep.heads):
        if predicts_one_class(row):
            rate = row["config"][RATE]
            labels[f"{_line_name(row)} (learning rate {rate:g})"] = None
    if not labels:
        return ""
    listed = "; ".join(labels)
    return f"**Predicts one class throughout**, as if nothing was learned: {listed}."


def _line_name(row: Row) -> str:
    """What tells a line: its matrices and their rank, as far as its method has them."""
    config = row["config"]
    name = config.get("targets") or config["method"]
    rank = config.get("rank")
    return name if rank is None else f"{name} at r = {rank}"
