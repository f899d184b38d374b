"""Which rank a budget pays for: by hand, and as in LoRA's Table 5."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax import accounting
from lora_jax.accounting import Architecture, LoRA, rank_for, trainable_parameters

NAMES = ("query", "key", "value", "output", "up", "down")
TARGETS = st.sets(st.sampled_from(NAMES), min_size=1).map(",".join)


@given(st.integers(0, 10**6), TARGETS)
def test_a_budget_is_used_as_far_as_it_goes(extra, targets):
    first = trainable_parameters(LoRA(targets, 1), "minilm-l6")
    budget = first + extra
    fit = rank_for(budget, "minilm-l6", targets)
    count = trainable_parameters(LoRA(targets, fit.rank), "minilm-l6")
    assert fit.parameters == count
    assert fit.parameters + fit.left == budget
    # Less than another rank is left, unless the matrices have no more.
    assert 0 <= fit.left < first or fit.rank == 384


@pytest.mark.parametrize(
    ("targets", "rank"),
    [("query", 8), ("query,value", 4), ("query,key,value,output", 2)],
)
def test_the_budget_of_table_5(targets, rank):
    fit = rank_for(18_874_368, "gpt3-175b", targets)
    assert fit == (rank, 18_874_368, 0)
    assert rank_for(18_874_367, "gpt3-175b", targets).rank == rank - 1


def test_more_than_the_full_rank_is_left_over():
    sizes = Architecture("tiny", "gpt2", 3, 4, 2, 10, 7, 5, 0)
    fit = rank_for(10**9, sizes, "up")
    full = 3 * 4 * (4 + 10)
    assert fit == (4, full, 10**9 - full)


def test_a_budget_that_is_too_small_is_told_the_least():
    with pytest.raises(ValueError) as caught:
        rank_for(4_700_000, "gpt3-175b", "query,value")
    assert str(caught.value) == (
        "budget: expected at least 4,718,592 parameters, what r = 1 on query,value of "
        "gpt3-175b has; got 4,700,000"
    )


@pytest.mark.parametrize(
    ("budget", "first", "second", "rank"),
    [
        (8, 1, 2, 8),
        (9, 4, 8, 2),
        (4, 4, 8, 1),
        # 10 parameters for r = 1, and 4 more for every other rank.
        (13, 10, 14, 1),
        (14, 10, 14, 2),
        (21, 10, 14, 3),
    ],
)
def test_ranks_from_the_first_two_costs(budget, first, second, rank):
    assert accounting.affordable_rank(budget, first, second) == rank
