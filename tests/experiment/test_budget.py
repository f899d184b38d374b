"""Ranks within a budget, counted by hand on the tiny encoder.

r = 1 costs 2 (16 + 16) = 64 parameters on one attention matrix of its 2 layers, and
2 (16 + 32) = 96 on an MLP's.
"""

import pytest

from lora_jax.experiment import NO_METHOD
from lora_jax.experiment.budget import ranks_within
from tests.experiment.toy import BASE

ALL_FOUR = "query,key,value,output"


def test_the_papers_budget_is_that_of_r_8_on_the_queries(benches):
    budget, ranks = ranks_within(0, BASE, ["query", "query,value"], benches)
    assert budget == 8 * 64
    assert ranks == {"query": 8, "query,value": 4}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # 1000 = 15 x 64 + 40 = 3 x 256 + 232 = 10 x 96 + 40.
        (1000, {"query": 15, ALL_FOUR: 3, "blocks/mlp/up": 10}),
        # Nothing is left.
        (256, {"query": 4, ALL_FOUR: 1, "blocks/mlp/up": 2}),
    ],
)
def test_the_highest_rank_within_a_budget(benches, budget, expected):
    assert ranks_within(budget, BASE, list(expected), benches) == (budget, expected)


def test_trained_biases_are_paid_for(benches):
    base = BASE.changed(bias="all")
    budget, ranks = ranks_within(900, base, ["query"], benches)
    counts = []
    for rank in (ranks["query"], ranks["query"] + 1):
        bench = benches.bench(base.changed(rank=rank))
        counts.append(bench.counts().adapter)
    assert counts[0] <= budget < counts[1]
    assert counts[1] - counts[0] == 64


def message_of(budget, base, targets, benches) -> str:
    with pytest.raises(ValueError) as error:
        ranks_within(budget, base, targets, benches)
    return str(error.value)


def test_a_budget_below_r_1_is_an_error_with_each_cost(benches):
    targets = ["query", "query,value", ALL_FOUR]
    assert message_of(100, BASE, targets, benches) == (
        "budget: expected at least what r = 1 costs (128 for query,value, 256 for "
        "query,key,value,output), got 100"
    )


def test_a_budget_above_the_matrices_is_an_error(benches):
    text = message_of(10_000_000, BASE, ["query"], benches)
    assert text.startswith("budget: 10,000,000 is more than the matrices can hold (")
    assert "rank: expected 1 <= rank <= 16" in text


@pytest.mark.parametrize("method", ["full", "prefix", NO_METHOD])
def test_a_method_without_a_rank_is_refused(benches, method):
    base = BASE.changed(method=method)
    assert message_of(0, base, ["query"], benches) == (
        f"method: expected one with a rank to choose, as lora, got {method}"
    )


def test_a_wrong_setting_comes_first(benches):
    text = message_of(0, BASE.changed(rows=-1), ["query"], benches)
    assert text == "rows: expected 0 or more (0 is all), got -1"
