"""Scores of predictions: labels in classification.py, generated text in text.py."""

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
    "METRICS",
    "accuracy",
    "f1",
    "matthews",
    "pearson",
    "score",
    "spearman",
]
