"""The page of an experiment that compares methods on tasks that generate text.

LoRA's Tables 3, 4, 13 and 14 are such pages: a line for each method with its trainable
parameters and the scores of its texts. Beside them stand the paper's table, the texts
themselves, and the training losses. Everything is drawn from rows alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from lora_jax.results import claims, generated_texts, pictures, plots
from lora_jax.results.claims import Claim, Score
from lora_jax.results.method_summary import (
    LOSS,
    NAMES,
    PRETRAINED,
    PUBLISHED_NAMES,
    UNITLESS,
    axes,
    axis_label,
    base_name,
    by_setting,
    columns_of_settings,
    method_settings,
    metric_names,
    summary,
)
from lora_jax.results.report import (
    Comparison,
    Report,
    Section,
    clock,
    settings,
    warning,
)
from lora_jax.results.rows import Row
from lora_jax.results.summary import Group, groups, plus_minus

# One text that comes out otherwise is 1 % of the 96 that are scored, and a seed moves
# BLEU by some points: rows of two machines agree if they are as near as that.
TOLERANCE = 5.0

Blocks = Sequence[str | pd.DataFrame]
Note = Callable[[str], str | None]
"""In what a metric differs from the papers' own; None where it does not."""


def no_values(_task: str, _metric: str) -> dict[str, float]:
    """Return that the paper has no scores."""
    return {}


def report(
    rows: Sequence[Row],
    *,
    title: str,
    intro: str | None,
    published: Callable[[str], Blocks],
    note: Note,
    claims: Sequence[Claim],
    values: Callable[[str, str], Mapping[str, float]] = no_values,
) -> Report:
    """Return the report of an experiment on methods: a section for each task.

    `published` returns what the paper has on a task, `values` its best score of each
    method, in our names, of a task's metric.
    """
    sections = []
    tables = []
    parts = groups(rows, axes(rows))
    for group in parts:
        table = summary(group)
        beside = published(group.settings["data"])
        blocks = section_blocks(group, table, beside, note)
        sections.append(Section(group.name, blocks))
        tables.append(table)
    drawn = list(zip(parts, tables, strict=True))
    return Report(
        title=title,
        intro=intro,
        sections=sections,
        claims=claims,
        data=pd.concat(tables),
        **pictures.of_groups(parts, drawn, lambda item: figures(*item, values)),
        comparison=Comparison(
            by=("data", "model", "settings", "called"), tolerance=TOLERANCE
        ),
    )


def section_blocks(
    group: Group, table: pd.DataFrame, published: Blocks, note: Note
) -> list[str | pd.DataFrame]:
    """Return a task's blocks: scores, the paper's, texts, settings."""
    # What a reader must know before the first number.
    units = (
        "Loss in nats a token of the target, without smoothing; shares in %, ± is the "
        "standard error over seeds."
    )
    rows_by_name = by_setting(group)
    return [
        *warning(group),
        f"{sizes(group)} {units}{notes(group.first, note)}",
        score_table(group, table),
        *published,
        *generated_texts.blocks(rows_by_name),
        settings(group),
        settings_of_methods(rows_by_name, columns_of_settings(group)),
    ]


def sizes(group: Group) -> str:
    """Return a sentence on what was trained on, what is scored, and the seeds."""
    examples = group.first["examples"]
    splits = []
    for split, size in examples.items():
        # Train and validation have no texts, only a loss.
        if split in group.first["written"]:
            splits.append(f"{size:,} sources of {split}")
    epochs = group.settings["epochs"]
    seeds = ", ".join(map(str, group.seeds))
    return (
        f"Trained on {examples['train']:,} rows, epochs: {epochs}; scored on "
        f"{', '.join(splits)}, each with all its references; seeds {seeds}."
    )


def notes(row: Row, note: Note) -> str:
    """Return sentences on metrics that are not the papers' own, or are missing."""
    sentences = []
    # Several splits have the same metrics: each is explained once.
    metrics = dict.fromkeys(map(base_name, metric_names(row)))
    for metric in metrics:
        if text := note(metric):
            sentences.append(f" {metric}: {text}.")
    reasons: dict[str, str] = {}
    for texts in row["written"].values():
        reasons |= texts["missing"]
    for metric, reason in reasons.items():
        sentences.append(f" {metric} is missing: {reason}.")
    return "".join(sentences)


def score_table(group: Group, table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores as text, with their errors, and the speeds."""
    columns: dict[str, Any] = {"method": table["called"]}
    columns["parameters"] = table["parameters"]
    for name in metric_names(group.first):
        errors = table[f"{name} error"]
        columns[name] = plus_minus(table[name], errors, _decimals(name))
    training = table["tokens per second"]
    writing = table["written tokens per second"]
    columns["training tokens/s"] = list(map(_speed, training))
    columns["written tokens/s, with compilation"] = list(map(_speed, writing))
    columns["time"] = list(map(clock, table["seconds"]))
    return pd.DataFrame(columns)


def settings_of_methods(
    rows_by_name: Mapping[str, Sequence[Row]], names: Sequence[str]
) -> str:
    """Return a list of each method's own settings, folded away."""
    lines = []
    for label, rows in rows_by_name.items():
        values = method_settings(rows[0]["config"], names)
        items = [f"{name} {value}" for name, value in values.items()]
        lines.append(f"- {label}: {', '.join(items)}")
    heading = "<details><summary>Settings of the methods</summary>"
    text = "\n".join(lines)
    return f"{heading}\n\n{text}\n\n</details>"


def lora_claims(
    rows: Sequence[Row], metric: str, source: str, statement: str
) -> list[Claim]:
    """Check that LoRA's score is above each other method's, all at their best settings.

    `statement` names the score. It is looked for in the largest group of rows that have
    the metric.
    """
    scored = [row for row in rows if metric in row["metrics"]]
    if not scored:
        return []
    table = summary(groups(scored, axes(scored))[0])
    scores = _best_scores(table, metric)
    if "lora" not in scores:
        return []
    result = []
    # In the order of the papers, as the table's lines are.
    for method in scores:
        # The paper has no line of the model as pretrained.
        if method not in ("lora", PRETRAINED):
            text = f"{statement} is above that of {NAMES.get(method, method)}"
            claim = claims.difference(source, text, scores["lora"], scores[method])
            result.append(claim)
    return result


def figures(
    group: Group,
    table: pd.DataFrame,
    values: Callable[[str, str], Mapping[str, float]] = no_values,
) -> dict[str, plots.Figure | None]:
    """Draw the first score of each method beside the paper's, and the training losses."""
    first = table.iloc[0]
    unknown = [math.nan] * len(table)
    series: dict[str, Any] = {"ours": (table["called"], table["score"], table["error"])}
    published = values(first["data"], base_name(first["metric"]))
    if published:
        # A method that the paper does not have has no bar.
        scores = [published.get(method, math.nan) for method in table["method"]]
        series["paper"] = (table["called"], scores, unknown)
    # Without a score of any line there is nothing to draw.
    bars = None
    if table["score"].notna().any():
        bars = plots.bars_with_errors(
            series,
            title=plots.title_of(table),
            xlabel="method",
            ylabel=axis_label(first["metric"]),
        )
    return {"": bars, "loss": loss_curves(group)}


def loss_curves(group: Group) -> plots.Figure | None:
    """Draw the training loss of each method that trained, label smoothing included.

    Its points are means of neighboring steps, of the first seed.
    """
    series: dict[str, Any] = {}
    for label, rows in by_setting(group).items():
        points = rows[0]["curve"]
        if points:  # [[step, loss], …]
            steps, losses = zip(*points, strict=True)
            series[label] = (steps, losses, None)
    if not series:
        return None
    title = group.name
    return plots.curves(
        series, title=title, xlabel="step", ylabel="training loss, nats a token"
    )


def in_percent(scores: pd.DataFrame, title: str) -> list[str | pd.DataFrame]:
    """Return the paper's table with METEOR (MET) and TER in %, as ours are.

    Its Table 3 prints METEOR in %; Tables 13 and 14 print both from 0 to 1.
    """
    table = scores.copy()
    scaled = []
    for column in table.columns:
        name = str(column).partition(" ")[0]
        # A share of at least one in a hundred: above 1 it is in % already.
        if name in ("MET", "TER") and table[column].max() <= 1:
            table[column] = (100 * table[column]).round(1)
            scaled.append(name)
    unit = ""
    if scaled:
        names = " and ".join(dict.fromkeys(scaled))
        unit = f" ({names} in %, as ours; printed there from 0 to 1)"
    return [f"{title}{unit}:", table]


def best_by_method(scores: pd.DataFrame, column: str) -> dict[str, float]:
    """Return the paper's highest score of each method that we have, in our names."""
    best: dict[str, float] = {}
    for _, line in scores.iterrows():
        method = PUBLISHED_NAMES.get(line["method"])
        if method is not None:
            best[method] = max(float(line[column]), best.get(method, 0.0))
    return best


def _best_scores(table: pd.DataFrame, metric: str) -> dict[str, Score]:
    """Each method's highest score, in the order of the table."""
    scores = {}
    for method, lines in table.groupby("method", sort=False):
        best = lines.sort_values(metric, kind="stable").iloc[-1]
        scores[str(method)] = Score(best[metric], best[f"{metric} error"])
    return scores


def _speed(tokens_per_second: float) -> str:
    # Nothing was trained in a row without a speed.
    return f"{tokens_per_second:,.0f}" if tokens_per_second else ""


def _decimals(metric: str) -> int:
    if metric == LOSS:
        return 3
    return 2 if base_name(metric) in UNITLESS else 1
