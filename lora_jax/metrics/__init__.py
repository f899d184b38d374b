"""Scores of predictions: labels in `classification`, generated texts in `text`."""

from lora_jax.metrics.classification import (
    METRICS,
    accuracy,
    f1,
    matthews,
    pearson,
    score,
    spearman,
)
from lora_jax.metrics.names import LOWER_IS_BETTER, higher_is_better

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
