"""The settings of decoding, and which are rejected."""

import math
from typing import Any

import pytest

from lora_jax.generation import Decoding, check


def message_of(**settings: Any) -> str:
    with pytest.raises(ValueError) as caught:
        check(Decoding(**settings))
    return str(caught.value)


def test_the_defaults_are_valid():
    check(Decoding())


def test_all_wrong_settings_are_listed():
    message = message_of(
        new_tokens=0,
        beam=2.0,
        no_repeat=-1,
        length_penalty=math.nan,
        temperature="a",
        top_p=0.0,
    )
    assert message == (
        "new_tokens: expected a whole number, 1 or more tokens, got 0; "
        "beam: expected a whole number, 1 or more, got 2.0; "
        "no_repeat: expected a whole number, 0 (none) or more, got -1; "
        "length_penalty: expected a finite number, got nan; "
        "temperature: expected 0 (the likeliest token) or more, got a; "
        "top_p: expected in (0, 1], got 0.0"
    )


def test_a_share_is_at_most_1():
    assert message_of(top_p=1.5) == "top_p: expected in (0, 1], got 1.5"


def test_a_count_is_whole():
    message = "new_tokens: expected a whole number, 1 or more tokens, got 4.5"
    assert message_of(new_tokens=4.5) == message


def test_a_beam_draws_nothing():
    message = "temperature: expected 0 with a beam of 2, which draws nothing, got 1.0"
    assert message_of(beam=2, temperature=1.0) == message


def test_drawing_from_the_likeliest_needs_a_temperature():
    message = "top_p: expected 1 with temperature 0, which draws nothing, got 0.5"
    assert message_of(top_p=0.5) == message
