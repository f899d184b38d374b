"""Scores of predictions against labels, by the names GLUE uses, through scikit-learn and scipy."""

import difflib
from collections.abc import Callable, Iterable

import numpy as np

# scikit-learn and scipy.stats are imported where they are used: they take as long to import as all the rest of the library.
CORRELATIONS = ("pearson", "spearman")


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions [N] equal to the labels [N], in 0..1."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(*_checked(predictions, labels)))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 against class 0, in 0..1; 0 when class 1 is neither there nor predicted.

    Raises ValueError when there are other classes than 0 and 1.
    """
    from sklearn.metrics import f1_score

    predictions, labels = _checked(predictions, labels)
    others = sorted(set(np.unique([predictions, labels]).tolist()) - {0, 1})
    if others:
        raise ValueError(
            f"f1 is of class 1 against class 0: expected classes 0 and 1, got also {others[:5]}"
        )
    return float(f1_score(labels, predictions, zero_division=0.0))  # type: ignore[arg-type]  # annotated as str


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of classes, in -1..1; 0 when predictions or labels are constant."""
    from sklearn.metrics import matthews_corrcoef

    predictions, labels = _checked(predictions, labels)
    return (
        0.0
        if _constant(predictions) or _constant(labels)
        else float(matthews_corrcoef(labels, predictions))
    )


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation of scores, in -1..1; 0, and no warning, when predictions or labels are constant."""
    return _correlation("pearsonr", predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Rank correlation of scores, in -1..1; 0, and no warning, when predictions or labels are constant."""
    return _correlation("spearmanr", predictions, labels)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def score(
    names: Iterable[str], logits: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Each named metric of `logits`: [N, C] with class labels [N], or [N, 1] with scores [N] for regression.

    Raises ValueError on an unknown name, a metric that does not fit C, logits or labels of other shapes, class labels
    outside 0..C-1, or logits that are not finite, which argmax would otherwise turn into a class.
    """
    names, logits, labels = list(names), np.asarray(logits), np.asarray(labels)
    _known(names)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        raise ValueError(
            f"expected logits [N, C] and labels [N], got {logits.shape} and {labels.shape}"
        )
    classes = logits.shape[1]
    wrong = [name for name in names if (name in CORRELATIONS) != (classes == 1)]
    if wrong:
        kind = "regression" if classes == 1 else "classes"
        raise ValueError(
            f"logits {logits.shape} are {kind}, which {', '.join(wrong)} cannot score"
        )
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ValueError(
            f"expected finite logits, got {bad:,} of {len(logits):,} rows that are not: training diverged"
        )
    if classes > 1 and not np.isin(labels, range(classes)).all():
        raise ValueError(
            f"expected labels in 0..{classes - 1}, got {labels.min()}..{labels.max()}"
        )
    predictions = logits[:, 0] if classes == 1 else logits.argmax(axis=1)
    return {name: METRICS[name](predictions, labels) for name in names}


def _known(names: Iterable[str]) -> None:
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], METRICS, 1)
        hint = f"; is {close[0]} meant?" if close else ""
        raise ValueError(
            f"expected metrics out of {', '.join(METRICS)}, got {', '.join(unknown)}{hint}"
        )


def _checked(
    predictions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if (
        predictions.shape != labels.shape
        or predictions.ndim != 1
        or not predictions.size
    ):
        raise ValueError(
            f"expected predictions [N] and labels [N], got {predictions.shape} and {labels.shape}"
        )
    return predictions, labels


def _correlation(test: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy import stats

    predictions, labels = (
        values.astype(float) for values in _checked(predictions, labels)
    )
    return (
        0.0
        if _constant(predictions) or _constant(labels)
        else float(getattr(stats, test)(predictions, labels).statistic)
    )


def _constant(values: np.ndarray) -> bool:
    # Not exactly 0: a spread in the last bits is rounding, and scipy warns of it as it does of none.
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
