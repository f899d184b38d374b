import numpy as np
import pytest

from lora_jax import metrics


def logits(predicted: list[int], classes: int = 2) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_accuracy_by_hand():
    assert metrics.accuracy(np.array([1, 0, 2, 2]), np.array([1, 0, 2, 0])) == 0.75


def test_f1_by_hand():
    # 2 true positives, 1 false positive, 1 false negative: precision 2/3, recall 2/3.
    assert metrics.f1(
        np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    ) == pytest.approx(2 / 3)


def test_f1_is_0_without_positives():
    assert metrics.f1(np.array([0, 0]), np.array([0, 0])) == 0.0


def test_f1_refuses_a_third_class():
    with pytest.raises(ValueError, match=r"expected classes 0 and 1, got also \[2\]"):
        metrics.f1(np.array([0, 2]), np.array([0, 1]))


def test_matthews_by_hand():
    # TP 2, TN 1, FP 1, FN 1: (2 * 1 - 1 * 1) / sqrt(3 * 3 * 2 * 2) = 1 / 6.
    assert metrics.matthews(
        np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    ) == pytest.approx(1 / 6)


def test_pearson_by_hand():
    # Deviations (-1, 0, 1) and (-1, -1, 2): 3 / sqrt(2 * 6).
    assert metrics.pearson(
        np.array([1.0, 2, 3]), np.array([1.0, 1, 4])
    ) == pytest.approx(3 / np.sqrt(12))


def test_spearman_sees_only_ranks():
    assert metrics.spearman(
        np.array([1.0, 2, 3, 4]), np.array([0.1, 10, 11, 1000])
    ) == pytest.approx(1)
    # One swap among 3: 1 - 6 * 2 / (3 * 8).
    assert metrics.spearman(
        np.array([1.0, 2, 3]), np.array([2.0, 1, 3])
    ) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
@pytest.mark.parametrize(
    "constant", [[1.0, 1, 1], [0.1, 0.1 + 1e-16, 0.1], [0.0, 0, 0]]
)
def test_constant_predictions_correlate_with_nothing(name, constant):
    assert metrics.METRICS[name](np.array(constant), np.array([0, 1, 1])) == 0.0
    assert metrics.METRICS[name](np.array([0, 1, 1]), np.array(constant)) == 0.0


def test_one_example_is_constant():
    assert metrics.pearson(np.array([1.0]), np.array([2.0])) == 0.0


def test_score_of_classes_takes_the_largest_logit():
    assert metrics.score(
        ["accuracy", "f1"], logits([1, 0, 1, 1]), np.array([1, 0, 0, 1])
    ) == {
        "accuracy": 0.75,
        "f1": pytest.approx(0.8),
    }


def test_score_of_regression_takes_the_only_column():
    scores = metrics.score(
        ["pearson", "spearman"],
        np.array([[1.0], [2.0], [3.0]]),
        np.array([2.0, 4.0, 6.0]),
    )
    assert scores == {"pearson": pytest.approx(1), "spearman": pytest.approx(1)}


@pytest.mark.parametrize(
    ("names", "values", "labels", "message"),
    [
        (
            ["acuracy"],
            logits([0]),
            [0],
            "expected metrics out of accuracy, f1, .*, got acuracy; is accuracy meant",
        ),
        (
            ["accuracy"],
            logits([0, 1]),
            [0],
            r"expected logits \[N, C\] and labels \[N\], got \(2, 2\) and \(1,\)",
        ),
        (["accuracy"], np.zeros((0, 2)), [], r"got \(0, 2\) and \(0,\)"),
        (
            ["accuracy"],
            np.zeros((3, 1)),
            [0, 1, 0],
            r"\(3, 1\) are regression, which accuracy cannot score",
        ),
        (
            ["pearson"],
            np.zeros((3, 2)),
            [0, 1, 0],
            r"\(3, 2\) are classes, which pearson cannot score",
        ),
        (
            ["accuracy"],
            np.array([[0, np.nan], [0, 1]]),
            [0, 1],
            "1 of 2 rows that are not: training diverged",
        ),
        (
            ["accuracy"],
            logits([0, 1]),
            [0, 2],
            r"expected labels in 0\.\.1, got 0\.\.2",
        ),
    ],
)
def test_score_refuses(names, values, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.score(names, values, np.array(labels))


def test_metrics_refuse_other_sizes():
    with pytest.raises(
        ValueError,
        match=r"expected predictions \[N\] and labels \[N\], got \(2,\) and \(3,\)",
    ):
        metrics.accuracy(np.zeros(2), np.zeros(3))
