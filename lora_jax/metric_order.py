"""Which of two values of a metric is the better one.

Training asks to choose an epoch, and pages ask to choose a row.
"""

# Of all other metrics a larger value is better.
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "ter"})


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of the metric, such as "accuracy", is better."""
    return metric not in LOWER_IS_BETTER
