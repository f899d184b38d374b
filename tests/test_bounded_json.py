"""JSON from outside: values, and bounds on nesting."""

import json

import pytest

from lora_jax import bounded_json


def test_a_value_is_that_of_the_standard_library():
    value = {"a": [1, 2.5, None, True], "b": {"c": 'brackets "[[[" in text\\'}}
    assert bounded_json.parse(json.dumps(value)) == value
    assert bounded_json.parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening, closing):
    depth = bounded_json.MAX_DEPTH
    inside = opening * depth + "1" + closing * depth
    assert bounded_json.parse(inside) is not None
    for deeper in (depth + 1, 100_000):
        with pytest.raises(ValueError, match="nested more than 100 levels deep"):
            bounded_json.parse(opening * deeper + "1" + closing * deeper)


def test_brackets_inside_of_strings_do_not_nest():
    # Opening ones alone, and closing ones that would hide the depth around them.
    text = "[" * 500 + '\\"{'
    assert bounded_json.parse(f'["{text}"]') == [text.replace('\\"', '"')]
    hidden = '["]]]]]]",' * 200
    with pytest.raises(ValueError, match="nested more than"):
        bounded_json.parse(hidden)


def test_a_torn_string_is_refused_in_linear_time():
    # A search that goes back would take hours here.
    with pytest.raises(json.JSONDecodeError, match="Unterminated"):
        bounded_json.parse("[" * 100 + '"' + '\\"' * 1_000_000)
    with pytest.raises(ValueError, match="nested more than"):
        bounded_json.parse("[" * 101 + '"' + '\\"' * 1_000_000)


def test_what_is_not_json_has_its_position():
    with pytest.raises(json.JSONDecodeError, match="line 1 column 2"):
        bounded_json.parse("[")
    with pytest.raises(UnicodeDecodeError):
        bounded_json.parse(b'["\xff"]')
