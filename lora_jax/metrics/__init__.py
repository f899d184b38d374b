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

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "ter"})


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of the metric, such as "accuracy", is better."""
    return metric not in LOWER_IS_BETTER
