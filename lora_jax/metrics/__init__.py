"""Scores of predictions: labels in `classification`, generated texts in `text`."""

from lora_jax.metric_order import LOWER_IS_BETTER, higher_is_better
from lora_jax.metrics.classification import (
    METRICS,
    accuracy,
    f1,
    matthews,
    pearson,
    score,
    spearman,
)

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "accuracy",
    "f1",
    "higher_is_better",
    "matthews",
    "pearson",
    "score",
    "spearman",
]
