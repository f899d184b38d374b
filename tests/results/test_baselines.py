"""What a row says of a classifier that learned nothing."""

import pytest

from lora_jax.results.baselines import majority_share, predicts_one_class


@pytest.mark.parametrize(
    ("classes", "is_collapsed"), [([2, 1], True), ([1, 2], False), ([], False)]
)
def test_the_kept_epoch_decides_whether_one_class_is_predicted(classes, is_collapsed):
    validation = [{"accuracy": 0.5, "predicted_classes": count} for count in classes]
    row = {"best_epoch": 2, "validation": validation or [{}, {}]}
    assert predicts_one_class(row) is is_collapsed


@pytest.mark.parametrize("best", [None, 0, 3, 99])
def test_an_epoch_that_a_row_does_not_have_says_nothing(best):
    epochs = [{"predicted_classes": 1}, {"predicted_classes": 1}]
    assert not predicts_one_class({"best_epoch": best, "validation": epochs})
    assert not predicts_one_class({"best_epoch": best})


def test_the_largest_class_is_that_of_the_split():
    old = {"metrics": {"test/accuracy": 0.8}}
    new = {"metrics": {"test/majority": 0.54, "validation/majority": 0.6}}
    assert majority_share([old, new], "test") == 0.54
    assert majority_share([old], "test") is None
