"""What a field of a row may be, and how a message names the one that is not so."""

import pytest

from lora_jax.results import row_fields
from lora_jax.results.row_fields import COUNT, NUMBER, SCORE, TEXT


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({}, "examples: expected an object, got none"),
        ({"examples": {}}, "examples.test: expected {words}, got none"),
        ({"examples": []}, "examples: expected an object, got []"),
        ({"examples": {"test": 0}}, "examples.test: expected {words}, got 0"),
        ({"examples": {"test": True}}, "examples.test: expected {words}, got True"),
        ({"examples": {"test": 10**400}}, "examples.test: expected {words}, got 1000"),
        ({"examples": {"test": 1.5}}, "examples.test: expected {words}, got 1.5"),
    ],
)
def test_a_needed_field_is_named_with_what_came(row, sentence):
    (problem,) = row_fields.problems(row, {"examples.test": COUNT})
    assert problem.startswith(sentence.format(words=COUNT.words))


def test_a_sound_row_has_no_problem():
    row = {"examples": {"test": 3}, "curve": [[1, 2.5], [2, None]], "phi": [[[0.5]]]}
    assert row_fields.problems(row, {"examples.test": COUNT}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("curve", [[1, 2, 3]]),
        ("curve", "x"),
        ("phi", [[[1, 2]], [[1]]]),
        ("phi", [[[-0.1]]]),
        ("phi", [[["a"]]]),
        ("phi", []),
        ("seconds", "3"),
        ("seconds", float("nan")),
        ("parameters", {"adapter": 3}),
        ("validation", [{"accuracy": "high"}]),
        ("loss", 3),
        ("layers", {"query": {"kept": [None]}}),
        ("written", {"test": {"examples": [{"references": [5]}]}}),
    ],
)
def test_a_known_field_of_another_kind_is_a_problem_though_no_page_needs_it(
    name, value
):
    (problem,) = row_fields.problems({name: value}, {})
    assert problem.startswith(name)


def test_lists_and_objects_are_walked_to_each_value():
    needs = {"written.{}.examples.[].source": TEXT}
    texts = {"test": {"examples": [{"source": "a"}, {"source": None}]}}
    (problem,) = row_fields.problems({"written": texts}, needs)
    assert problem == "written.test.examples.1.source: expected text, got None"
    (problem,) = row_fields.problems({"written": {"test": {"examples": []}}}, needs)
    assert problem == "written.test.examples: expected an object, got none"


def test_null_is_a_score_but_no_number():
    assert SCORE.allows(None)
    assert not NUMBER.allows(None)
