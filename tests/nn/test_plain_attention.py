"""Attention against numpy in float64, one query at a time, and examples by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.nn.attention import heads_first
from lora_jax.nn.plain_attention import plain_attention

KEY = jax.random.key(0)


def attention_by_numpy(query, key, value, mask, heads):
    """Return softmax attention of [B, T, D], one row, head and query after another."""
    output = np.zeros(query.shape)
    batch, tokens, width = query.shape
    head_dim = width // heads
    mask = np.broadcast_to(mask, (batch, tokens, mask.shape[2]))
    for row, token, head in np.ndindex(batch, tokens, heads):
        start = head * head_dim
        columns = slice(start, start + head_dim)
        visible = mask[row, token]
        mixed = attention_of_one_query(
            query[row, token, columns],
            key[row, visible, columns],
            value[row, visible, columns],
        )
        output[row, token, columns] = mixed
    return output


def attention_of_one_query(query, key, value):
    """Return softmax attention of a query [K] to keys and values [S, K]."""
    scores = key @ query / math.sqrt(len(query))
    exponentials = np.exp(scores - scores.max())
    weights = exponentials / exponentials.sum()
    return weights @ value


def attend(query, key, value, mask, *, heads, **options):
    """Return `plain_attention` of [B, T, D], with as many heads of keys as of queries."""
    return plain_attention(
        heads_first(jnp.float32(query), heads),
        heads_first(jnp.float32(key), heads),
        heads_first(jnp.float32(value), heads),
        jnp.asarray(mask),
        **options,
    )


def test_a_token_that_attends_to_nothing_is_finite():
    rows = np.random.default_rng(0).normal(size=(1, 3, 8))
    nothing = np.zeros((1, 3, 3), bool)
    output = attend(rows, rows, rows, nothing, heads=2)
    assert np.isfinite(output).all()


class TestAttention:
    def test_equal_scores_give_the_mean_of_the_visible_values(self):
        query = jnp.zeros((1, 1, 2))
        key = jnp.zeros((1, 3, 2))
        value = jnp.array([[[1.0, 10.0], [3.0, 30.0], [100.0, 1000.0]]])
        mask = jnp.array([[[True, True, False]]])
        mixed = attend(query, key, value, mask, heads=1)
        assert mixed.tolist() == [[[2, 20]]]

    @settings(deadline=None, max_examples=10)
    @given(st.integers(0, 2**32), st.sampled_from([1, 2, 4]))
    def test_it_is_that_of_numpy(self, seed, heads):
        rng = np.random.default_rng(seed)
        query = rng.normal(size=(2, 3, 8))
        key = rng.normal(size=(2, 5, 8))
        value = rng.normal(size=(2, 5, 8))
        lengths = rng.integers(1, 6, (2, 1, 1))
        mask = np.arange(5) < lengths

        mixed = attend(query, key, value, mask, heads=heads)
        expected = attention_by_numpy(query, key, value, mask, heads)
        np.testing.assert_allclose(mixed, expected, atol=1e-5)

    def test_a_mask_may_differ_by_query(self):
        rng = np.random.default_rng(0)
        query, key, value = rng.normal(size=(3, 1, 4, 4))
        causal = np.tril(np.ones((1, 4, 4), bool))
        mixed = attend(query, key, value, causal, heads=2)
        expected = attention_by_numpy(query, key, value, causal, heads=2)
        np.testing.assert_allclose(mixed, expected, atol=1e-5)

    def test_dropout_of_the_weights_keeps_their_mean(self):
        query = jnp.ones((2000, 1, 1))
        two = jnp.ones((2000, 2, 1))
        mask = jnp.ones((2000, 1, 2), bool)
        mixed = attend(
            query,
            two,
            two,
            mask,
            heads=1,
            rate=0.5,
            dropout_key=KEY,
        )
        assert np.unique(mixed).tolist() == [0, 1, 2]
        assert float(mixed.mean()) == pytest.approx(1, abs=0.08)

    def test_several_heads_of_queries_share_one_of_keys(self):
        rng = np.random.default_rng(0)
        query = rng.normal(size=(2, 3, 8))
        key, value = rng.normal(size=(2, 2, 5, 4))
        mask = np.ones((2, 1, 5), bool)
        mixed = plain_attention(
            heads_first(jnp.float32(query), 4),
            heads_first(jnp.float32(key), 2),
            heads_first(jnp.float32(value), 2),
            mask,
        )

        # The same with a copy of the keys for each head of queries.
        expected = attention_by_numpy(
            query,
            repeat_heads(key),
            repeat_heads(value),
            mask,
            4,
        )
        np.testing.assert_allclose(mixed, expected, atol=1e-5)


def repeat_heads(x):
    """Return [2, 5, 4], of two heads, as [2, 5, 8]: each head twice."""
    by_head = x.reshape(2, 5, 2, 2)
    repeated = np.repeat(by_head, 2, axis=2)
    return repeated.reshape(2, 5, 8)
