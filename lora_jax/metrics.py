"""Scores of predictions against labels, by the names GLUE uses, through scikit-learn and scipy."""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

CORRELATIONS = ("pearson", "spearman")


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions [N] equal to the labels [N], in 0..1."""
    return float(accuracy_score(*_checked(predictions, labels)))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 against class 0, in 0..1; 0 when class 1 is neither there nor predicted.

    Raises ValueError when there are other classes than 0 and 1.
    """
    predictions, labels = _checked(predictions, labels)
    others = sorted(set(np.unique([predictions, labels]).tolist()) - {0, 1})
    if others:
        raise ValueError(f"f1 is of class 1 against class 0: expected classes 0 and 1, got also {others[:5]}")
    return float(f1_score(labels, predictions, zero_division=0.0))  # type: ignore[arg-type]  # annotated as str


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of classes, in -1..1; 0 when predictions or labels are constant."""
    predictions, labels = _checked(predictions, labels)
    return 0.0 if _constant(predictions) or _constant(labels) else float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation of scores, in -1..1; 0, and no warning, when predictions or labels are constant."""
    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Rank correlation of scores, in -1..1; 0, and no warning, when predictions or labels are constant."""
    return _correlation(stats.spearmanr, predictions, labels)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def score(names: Iterable[str], logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Each named metric of `logits`: [N, C] with class labels [N], or [N, 1] with scores [N] for regression.

    Raises ValueError on an unknown name, a metric that does not fit C, logits or labels of other shapes, class labels
    outside 0..C-1, or logits that are not finite, which argmax would otherwise turn into a class.
    """
    names, logits, labels = list(names), np.asarray(logits), np.asarray(labels)
    _known(names)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        raise ValueError(f"expected logits [N, C] and labels [N], got {logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    wrong = [name for name in names if (name in CORRELATIONS) != (classes == 1)]
    if wrong:
        kind = "regression" if classes == 1 else "classes"
        raise ValueError(f"logits {logits.shape} are {kind}, which {', '.join(wrong)} cannot score")
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ValueError(f"expected finite logits, got {bad:,} of {len(logits):,} rows that are not: training diverged")
    if classes > 1 and not np.isin(labels, range(classes)).all():
        raise ValueError(f"expected labels in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    predictions = logits[:, 0] if classes == 1 else logits.argmax(axis=1)
    return {name: METRICS[name](predictions, labels) for name in names}


def standard_error(name: str, value: float, n: int) -> float | None:
    """The binomial standard error sqrt(p (1 - p) / n) of an accuracy p over `n` examples; None for other metrics.

    Raises ValueError on an unknown name, an accuracy outside 0..1, or `n` below 1.
    """
    _known([name])
    if name != "accuracy":
        return None
    if not 0 <= value <= 1 or n < 1:
        raise ValueError(f"expected an accuracy in 0..1 over 1 example or more, got {value} over {n}")
    return math.sqrt(value * (1 - value) / n)


def _known(names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], METRICS, 1)
        hint = f"; is {close[0]} meant?" if close else ""
        raise ValueError(f"expected metrics out of {', '.join(METRICS)}, got {', '.join(unknown)}{hint}")


def _checked(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or not predictions.size:
        raise ValueError(f"expected predictions [N] and labels [N], got {predictions.shape} and {labels.shape}")
    return predictions, labels


def _correlation(test: Callable[..., Any], predictions: np.ndarray, labels: np.ndarray) -> float:
    predictions, labels = (values.astype(float) for values in _checked(predictions, labels))
    return 0.0 if _constant(predictions) or _constant(labels) else float(test(predictions, labels).statistic)


def _constant(values: np.ndarray) -> bool:
    # Not exactly 0: a spread in the last bits is rounding, and scipy warns of it as it does of none.
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
