"""What a classifier scores without having learned anything, as rows record it."""

from collections.abc import Iterable

from lora_jax.results.rows import Row

# A metric of a split: the share of its largest class, which one class throughout scores.
MAJORITY = "majority"
# Beside the scores of an epoch: the classes among the predictions of validation.
PREDICTED = "predicted_classes"


def majority_share(rows: Iterable[Row], split: str) -> float | None:
    """Return the share of the largest class of a split; None in rows of old versions."""
    for row in rows:
        share = row["metrics"].get(f"{split}/{MAJORITY}")
        if share is not None:
            return share
    return None


def predicts_one_class(row: Row) -> bool:
    """Return whether the model that a training kept predicts one class throughout.

    Rows of regressions, of generated texts, of trainings that diverged and of old
    versions do not say so.
    """
    epochs = row.get("validation") or []
    best = row.get("best_epoch") or 0
    # A row may have been edited: an epoch that it does not have says nothing.
    if not 1 <= best <= len(epochs):
        return False
    return epochs[best - 1].get(PREDICTED) == 1
