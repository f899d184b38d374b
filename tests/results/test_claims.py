"""The verdict on a published statement, from scores and their errors."""

import math

import pandas as pd
import pytest

from lora_jax.results import claims
from lora_jax.results.claims import EFFECTS, VALUES, Claim, Score

STATEMENT = "a is above b"


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [
        (2.0, 0.5, claims.REPRODUCED),
        (0.5, 0.5, claims.WITHIN_ERROR),
        (-0.4, 0.5, claims.WITHIN_ERROR),
        (-2.0, 0.5, claims.NOT_REPRODUCED),
        (0.0, 0.0, claims.WITHIN_ERROR),
        (15.0, math.nan, claims.UNKNOWN_ERROR),
    ],
)
def test_an_effect_is_a_difference_beyond_its_error(difference, error, verdict):
    assert claims.verdict_on(difference, error) == verdict
    assert verdict in EFFECTS


def test_a_difference_has_both_errors():
    claim = claims.difference("Table 6", STATEMENT, Score(80, 3), Score(70, 4))
    assert claim == Claim(
        "Table 6", STATEMENT, "80.0 against 70.0 ± 5.0 %", "reproduced"
    )


@pytest.mark.parametrize(
    ("score", "error", "verdict"),
    [
        (79.0, 1.5, claims.REPRODUCED),
        (78.0, 1.5, claims.NOT_REPRODUCED),
        (80.0, math.nan, claims.UNKNOWN_ERROR),
    ],
)
def test_a_score_is_as_good_to_one_error(score, error, verdict):
    claim = claims.no_worse("Table 6", STATEMENT, Score(score, error), Score(80.0, 0.0))
    assert claim.verdict == verdict


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ([True, True, False], claims.REPRODUCED),
        ([True, False], claims.NOT_REPRODUCED),
    ],
)
def test_a_claim_about_every_matrix_holds_in_more_than_half(holds, verdict):
    claim = claims.share("Table 7", STATEMENT, holds)
    assert claim.verdict == verdict
    assert claim.evidence == f"{sum(holds)} of {len(holds)}"


@pytest.mark.parametrize(
    ("value", "printed", "verdict"),
    [
        (18_874_368, "18.9M", claims.EQUAL),
        (18_874_368, "18.8M", claims.TRUNCATED),
        (18_874_368, "18.7M", claims.UNEXPLAINED),
        (174_604_259_328, "175B", claims.EQUAL),
        (1_234_600_000, "1,234.6M", claims.EQUAL),
    ],
)
def test_a_count_holds_to_the_printed_digit(value, printed, verdict):
    assert claims.printed_value(value, printed) == verdict
    assert verdict in VALUES


@pytest.mark.parametrize(
    ("value", "printed", "verdict"),
    [
        (349.6, "350", claims.EQUAL),
        (350.9, "350", claims.TRUNCATED),
        (330.0, "350", claims.NEAR),
        (300.0, "350", claims.UNEXPLAINED),
        (2 / 3, "0.67", claims.EQUAL),
    ],
)
def test_a_rounded_number_of_the_text_is_near_within_ten_percent(
    value, printed, verdict
):
    assert claims.near_value(value, printed) == verdict


def test_a_printed_number_in_full():
    assert claims.parse_printed("175,255.8M") == 175_255_800_000


def test_the_mean_of_scores_has_a_smaller_error():
    table = pd.DataFrame({"score": [70.0, 80.0], "error": [3.0, 4.0]})
    assert claims.mean_score(table) == Score(75.0, 2.5)
    assert claims.line_score(table.iloc[0]) == Score(70.0, 3.0)


def test_counts_are_values_and_trends_effects():
    for verdict in VALUES:
        assert Claim("Table 5", "", "", verdict).kind == "value"
    for verdict in EFFECTS:
        assert Claim("Table 5", "", "", verdict).kind == "effect"


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (3.0, claims.REPRODUCED),
        (2.0, claims.REPRODUCED),
        (4.5, claims.REPRODUCED),
        (1.87, claims.DIRECTION),
        (305.0, claims.DIRECTION),
        (0.9, claims.NOT_REPRODUCED),
    ],
)
def test_a_factor_holds_within_a_bound_or_in_direction_alone(value, verdict):
    assert claims.factor(value, published=3.0, nothing=1.0) == verdict
