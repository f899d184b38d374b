"""What labels mean: words, classes by number, scores."""

import pytest

from lora_jax.data.labels import class_names, label_key, label_text
from lora_jax.data.table import Table
from tests.data.files import message


def names(labels, kind="auto"):
    table = Table("a.csv", "line", range(1, len(labels) + 1), {"label": labels})
    return class_names(table, "label", kind)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["no", "Yes", "yes", "YES", "yes"], ("no", "yes")),
        ([True, False, "true"], ("False", "True")),
        (["0.0", "1.0", "2.0"], ("0", "1", "2")),
        ([0.0, 1.0, 1], ("0", "1")),
        (["01", "02"], ("01", "02")),
        (["123456789012345678901", "123456789012345678902"], None),
        ([f"{number}.0" for number in range(10)], tuple("0123456789")),
        # Scores.
        ([f"{number}.0" for number in range(11)], ()),
        (["0.5", "1"], ()),
        ([1.0, 3.5], ()),
    ],
)
def test_labels_are_words_whole_numbers_or_scores(labels, expected):
    if expected is None:
        expected = tuple(labels)
    assert names(labels)[0] == expected


def test_a_choice_that_might_surprise_is_told():
    assert names(["1.0", "2.0"])[1] == (
        "a.csv: labels with a decimal point are whole numbers, and are taken for 2 "
        "classes; --label-kind scores makes them scores",
    )
    assert names(["yes", "yes", "Yes", "no"])[1] == (
        "a.csv: Yes and yes are one class",
    )
    assert names(["1", "2.5"])[1] == (
        "a.csv: labels are taken for scores, as 2.5 is no whole number; "
        "--label-kind classes makes them classes",
    )
    assert names(["1", "2", "3"])[1] == ()


def test_the_kind_can_be_asked_for():
    assert names(["1", "2"], "scores")[0] == ()
    assert names(["0.5", "1.5"], "classes")[0] == ("0.5", "1.5")
    assert names(["1", "N/A"], "classes")[0] == ("1", "N/A")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["3,5", "2,0"], "expected numbers with a decimal point, got 3,5; write 3.5"),
        (["1", "2", "x"], "line 3: label: expected a number like most others, got 'x'"),
        (["1" * 130_000], "expected a word or a number of at most 200 characters"),
        (
            ["1", "x" * 300, "2"],
            "line 2: label: expected a word or a number of at most 200 characters (this",
        ),
        ([["a"], {"b": 1}], "line 2: label: expected a word or a number"),
        ([], "expected 2 classes or more in the training split, got none"),
        (["a", "A"], "expected 2 classes or more in the training split, got only 'a'"),
    ],
)
def test_labels_that_are_none(labels, expected):
    assert expected in message(names, labels)


def test_texts_and_keys():
    assert label_text(" a ") == "a"
    assert label_text("nan") is None
    assert label_text(float("inf")) is None
    assert label_text("1" * 130_000 + "x") is None
    assert [label_key(text) for text in ("+1", "01", "1.0", "1e0")] == ["1"] * 4
    assert label_key("1.50") == label_key("1.5")
    assert label_key("Straße") == label_key("STRASSE")
