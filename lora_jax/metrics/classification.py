"""Scores of predictions against labels, by the names that GLUE uses.

Accuracy, F1 and Matthews correlation are of classes, Pearson and Spearman correlation
of numbers. scikit-learn and scipy compute them; we check what goes in, so that a
mistake is an error and no number.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lora_jax.metrics.names import check_names

# scikit-learn and scipy.stats are imported in the functions: they take as long to
# import as the rest of this library.

# The metrics of regression; the others are of classes.
CORRELATIONS = ("pearson", "spearman")


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of predictions [N] that are equal to the labels [N], in 0..1."""
    from sklearn.metrics import accuracy_score

    predictions, labels = _check_pair(predictions, labels)
    return float(accuracy_score(predictions, labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return F1 of class 1 against class 0, in 0..1.

    It is 0 if class 1 is neither among the labels nor predicted.

    Raises:
        ValueError: there are other classes than 0 and 1.
    """
    from sklearn.metrics import f1_score

    predictions, labels = _check_pair(predictions, labels)
    # Of both: 1 against all others would be another question.
    classes = np.unique([predictions, labels]).tolist()
    others = sorted(set(classes) - {0, 1})
    if others:
        raise ValueError(
            "f1 is of class 1 against class 0: expected classes 0 and 1, got also "
            f"{others[:5]}"
        )
    # Annotated as a text, but a number is what it takes.
    zero_division: Any = 0.0
    return float(f1_score(labels, predictions, zero_division=zero_division))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the Matthews correlation of classes, in -1..1.

    It is 0 if the predictions or the labels are constant.
    """
    from sklearn.metrics import matthews_corrcoef

    predictions, labels = _check_pair(predictions, labels)
    if _is_constant(predictions) or _is_constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the linear correlation of numbers, in -1..1.

    It is 0, without a warning, if the predictions or the labels are constant.
    """
    from scipy import stats

    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the rank correlation of numbers, in -1..1.

    It is 0, without a warning, if the predictions or the labels are constant.
    """
    from scipy import stats

    return _correlation(stats.spearmanr, predictions, labels)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def score(
    names: Iterable[str],
    logits: np.ndarray,
    labels: np.ndarray,
) -> dict[str, float]:
    """Return the named metrics of `logits`.

    These are [N, C] with class labels [N], or [N, 1] with numbers [N] for regression.

    Raises:
        ValueError: a name is unknown or does not fit C; logits or labels have other
            shapes; class labels are outside 0..C-1; or logits are not finite, which
            argmax would otherwise turn into a class.
    """
    names = list(names)
    logits, labels = np.asarray(logits), np.asarray(labels)
    check_names(names, METRICS)
    # Shapes first: what follows relies on them.
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        raise ValueError(
            f"expected logits [N, C] and labels [N], got {logits.shape} and "
            f"{labels.shape}"
        )
    _check_kind(names, logits)
    _check_values(logits, labels)

    # [N, C] -> [N]
    is_regression = logits.shape[1] == 1
    predictions = logits[:, 0] if is_regression else logits.argmax(axis=1)
    scores = {}
    for name in names:
        metric = METRICS[name]
        scores[name] = metric(predictions, labels)
    return scores


def _check_kind(names: list[str], logits: np.ndarray) -> None:
    """Raise ValueError if metrics are of classes and logits are not, or conversely."""
    # A regression has one number a row.
    is_regression = logits.shape[1] == 1
    wrong = []
    for name in names:
        if (name in CORRELATIONS) != is_regression:
            wrong.append(name)
    if wrong:
        kind = "regression" if is_regression else "classes"
        raise ValueError(
            f"logits {logits.shape} are {kind}, which {', '.join(wrong)} cannot score"
        )


def _check_values(logits: np.ndarray, labels: np.ndarray) -> None:
    # Rows of [N, C].
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise ValueError(
            f"expected finite logits, got {bad:,} of {len(logits):,} rows that are not"
            ": training diverged"
        )
    classes = logits.shape[1]
    # Labels of a regression are any numbers.
    if classes > 1 and not np.isin(labels, range(classes)).all():
        raise ValueError(
            f"expected labels in 0..{classes - 1}, got {labels.min()}..{labels.max()}"
        )


def _check_pair(
    predictions: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays [N]. Raises ValueError if they are of other shapes."""
    # Lists are welcome too.
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    is_pair = predictions.shape == labels.shape and predictions.ndim == 1
    if not is_pair or not predictions.size:
        raise ValueError(
            f"expected predictions [N] and labels [N], got {predictions.shape} and "
            f"{labels.shape}"
        )
    return predictions, labels


def _correlation(
    test: Callable[..., Any],
    predictions: np.ndarray,
    labels: np.ndarray,
) -> float:
    predictions, labels = _check_pair(predictions, labels)
    # In float64, whatever dtype the model has.
    predictions, labels = predictions.astype(float), labels.astype(float)
    if _is_constant(predictions) or _is_constant(labels):
        return 0.0
    return float(test(predictions, labels).statistic)


def _is_constant(values: np.ndarray) -> bool:
    # Not exactly 0: a spread in the last bits is rounding, and scipy warns of it as it
    # does of none.
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())
