"""No n-gram twice: by hand, and against a loop over the text."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.generation.next_token import forbid_repeats
from tests.generation.greedy import repeating_tokens

TOKENS = jnp.array([[1, 2, 1, 2, 1, 1, 3], [1, 0, 1, 3, 1, 1, 2]])
START = jnp.array([0, 2])
END = 5
SCORES = jnp.zeros((2, 4))


def test_no_bigram_twice_by_hand():
    """After 1 2 1 2 1 no 2 may follow.

    Padding, the tokens before the start, and what is not written yet do not count.
    """
    scores = forbid_repeats(SCORES, TOKENS, START, END, 2)
    inf = np.inf
    assert scores.tolist() == [[0, 0, -inf, 0], [0, 0, 0, -inf]]


@pytest.mark.parametrize("size", [0, 8])
def test_sizes_that_forbid_nothing(size):
    # 0 by its meaning, 8 because a row has 7 tokens.
    scores = forbid_repeats(SCORES, TOKENS, START, END, size)
    assert not scores.any()


@functools.cache
def compiled(size: int) -> Any:
    return jax.jit(functools.partial(forbid_repeats, size=size))


ROW = st.lists(st.integers(0, 3), min_size=9, max_size=9)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(ROW, min_size=2, max_size=2),
    start=st.integers(0, 8),
    count=st.integers(1, 9),
    size=st.integers(1, 4),
)
def test_no_n_gram_twice(rows, start, count, size):
    end = min(start + count, 9)
    starts = jnp.full(2, start)
    tokens = jnp.array(rows)
    forbid = compiled(size)
    scores = forbid(SCORES, tokens, starts, end)
    for row, row_scores in zip(rows, scores, strict=True):
        is_forbidden = np.isinf(row_scores)
        forbidden = np.flatnonzero(is_forbidden)
        text = row[start:end]
        assert set(forbidden) == repeating_tokens(text, size)
