"""The page of Table 5 on made-up scores, beside the paper's."""

import math

import pandas as pd
import pytest

from lora_jax import paper
from lora_jax.results import claims
from lora_jax.results.pages import weight_selection as page


def table_of(scores):
    """A table of scores {targets: (score, its error)}, the paper's beside."""
    lines = []
    for targets, (score, error) in scores.items():
        line = {"targets": targets, "rank": 4, "parameters": 504}
        lines.append({**line, "score": score, "error": error})
    return paper.lora.beside(pd.DataFrame(lines), paper.lora.table5(), ["targets"])


@pytest.fixture
def table():
    return table_of(
        {
            "query": (70.0, 0.0),
            "key": (61.0, 1.0),
            "value": (80.0, 1.0),
            "query,value": (81.0, 1.0),
        }
    )


def test_the_papers_scores_have_their_standard_deviations(table):
    both = page.score_table(table).iloc[3]
    expected = ["query,value", 4, 504, "81.0 ± 1.0", "73.7 ± 0.5", "91.3 ± 0.1"]
    assert list(both) == expected


def test_gains_have_the_error_of_the_difference(table):
    gains = page.gain_table(table).set_index("against")
    assert list(gains.loc["{query}"]) == ["+11.0 ± 1.0", "+3.3", "+0.3"]
    # The square root of 1 + 1.
    assert list(gains.loc["{value}"]) == ["+1.0 ± 1.4", "+0.7", "+0.3"]
    assert list(gains.loc["{key}"]) == ["+20.0 ± 1.4", "+3.7", "+0.5"]


def test_a_gain_of_unknown_error_stands_alone():
    table = table_of({"query": (70.0, math.nan), "query,value": (69.0, 1.0)})
    assert list(page.gain_table(table).ours) == ["-1.0"]


def test_without_both_there_are_no_gains_and_no_claims(table):
    others = table[:3]
    assert page.gain_table(others).empty
    assert page.table5_claims(others) == []


def test_both_query_and_value_are_held_against_either_alone(table):
    result = page.table5_claims(table)
    assert [(claim.evidence, claim.verdict) for claim in result] == [
        ("81.0 against 70.0 ± 1.0 %", claims.REPRODUCED),
        ("81.0 against 61.0 ± 1.4 %", claims.REPRODUCED),
    ]


def test_the_figure_has_a_bar_for_each_set_ours_and_the_papers(table):
    table = table.assign(model="small", data="films", metric="test/accuracy")
    (axes,) = page.figure(table).axes
    assert [len(bars) for bars in axes.containers if hasattr(bars, "patches")] == [
        4
    ] * 3
