"""Rows of finished runs, and what is drawn from them.

This package knows neither models nor methods: it needs no jax.
"""

from lora_jax.results import claims, heatmaps, plots, report, stacked_bars
from lora_jax.results.claims import Claim, Score
from lora_jax.results.report import Comparison, Report, Section, render, table
from lora_jax.results.rows import Row, RowFile, claim, key, pending, read, record
from lora_jax.results.summary import (
    Column,
    Group,
    frame,
    groups,
    in_order,
    means,
    metric_table,
    pivot,
    plus_minus,
    primary_metric,
    scores,
    split_by,
    summary,
)

__all__ = [
    "Claim",
    "Column",
    "Comparison",
    "Group",
    "Report",
    "Row",
    "RowFile",
    "Score",
    "Section",
    "claim",
    "claims",
    "frame",
    "groups",
    "heatmaps",
    "in_order",
    "key",
    "means",
    "metric_table",
    "pending",
    "pivot",
    "plots",
    "plus_minus",
    "primary_metric",
    "read",
    "record",
    "render",
    "report",
    "scores",
    "split_by",
    "stacked_bars",
    "summary",
    "table",
]
