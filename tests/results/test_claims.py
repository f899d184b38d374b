"""What comes of a published effect beside ours."""

import math

import pytest

from lora_jax.results.claims import EFFECTS, VALUES, Verdict, as_good, effect


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [
        (2.0, 0.5, "seen"),
        (0.5, 0.5, "within the error"),
        (-0.4, 0.5, "within the error"),
        (-2.0, 0.5, "not seen"),
        (0.0, 0.0, "within the error"),
        (15.0, math.nan, "not known"),
    ],
)
def test_an_effect_is_a_difference_beyond_its_error(difference, error, verdict):
    assert effect(difference, error) == verdict and verdict in EFFECTS


@pytest.mark.parametrize(
    ("score", "error", "verdict"),
    [(79.0, 1.5, "seen"), (78.0, 1.5, "not seen"), (80.0, math.nan, "not known")],
)
def test_a_score_is_as_good_to_an_error(score, error, verdict):
    assert as_good(score, 80.0, error) == verdict


def test_counts_are_values_and_trends_effects():
    kinds = {
        name: Verdict("Table 5", "", "", name).kind for name in [*VALUES, *EFFECTS]
    }
    assert kinds == {
        **dict.fromkeys(VALUES, "value"),
        **dict.fromkeys(EFFECTS, "effect"),
    }
