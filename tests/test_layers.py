"""The layers against a few numbers done by hand and plain numpy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.layers import ACTIVATIONS, Embedding, LayerNorm, Linear, attention, dense, dropout, fold

KEY = jax.random.key(0)


def test_linear_by_hand():
    layer = Linear(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([10.0, 20.0]))
    assert layer(jnp.array([1.0, 1.0])).tolist() == [14, 26]
    assert Linear(layer.kernel[...])(jnp.array([1.0, -1.0])).tolist() == [-2, -2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_are_in_the_dtype_of_their_input(dtype):
    x, kernel = jnp.ones((2, 3), dtype), jnp.ones((3, 4), jnp.float32)
    assert dense(x, kernel).dtype == Linear(kernel, jnp.ones(4))(x).dtype == dtype
    assert LayerNorm(jnp.ones(3), jnp.ones(3), epsilon=1e-6)(x).dtype == dtype


@pytest.mark.parametrize("of", [0, 1, (0, 1)])  # a frozen kernel's gradient is not even asked for
def test_a_bfloat16_kernel_s_gradients_are_those_of_float32_rounded(of):
    x, weights = jax.random.normal(KEY, (2, 5, 8)), jax.random.normal(jax.random.key(1), (2, 5, 4))
    kernel = jax.random.normal(jax.random.key(2), (8, 4)).astype(jnp.bfloat16)
    gradient = jax.grad(lambda x, kernel: jnp.sum(dense(x, kernel) * weights), of)
    found, wanted = (jax.tree.leaves(gradient(x, w)) for w in (kernel, kernel.astype(jnp.float32)))
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == (x.dtype if a.shape == x.shape else kernel.dtype)
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05, rtol=0.02)


def test_embedding_gives_rows():
    table = Embedding(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    assert table(jnp.array([[1, 0], [1, 1]])).tolist() == [[[3, 4], [1, 2]], [[3, 4], [3, 4]]]


def test_layer_norm_by_hand():
    # (1, 3): mean 2, variance 1; with epsilon 3 the root is 2: (-1/2, 1/2), times (2, 4), plus (1, 0)
    layer = LayerNorm(jnp.array([2.0, 4.0]), jnp.array([1.0, 0.0]), epsilon=3.0)
    np.testing.assert_allclose(layer(jnp.array([1.0, 3.0])), [0, 2], atol=1e-6)


def test_layer_norm_of_values_far_from_zero():
    x = 1000 + np.random.default_rng(0).normal(size=(4, 64))
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    found = LayerNorm(jnp.ones(64), jnp.zeros(64), epsilon=1e-6)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # float32 holds 1000 to 6e-5


def test_layer_norm_s_gradient_is_the_difference_quotient():
    layer = LayerNorm(jnp.array([2.0, 4.0, 1.0]), jnp.zeros(3), epsilon=0.1)
    x, step = np.array([1.0, 3.0, -2.0]), 1e-2

    def f(x):
        return float(jnp.sum(layer(jnp.float32(x)) ** 3))

    slopes = [(f(x + step * unit) - f(x - step * unit)) / (2 * step) for unit in np.eye(3)]
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(layer(x) ** 3))(jnp.float32(x)), slopes, rtol=0.01, atol=0.05)


def test_activations():
    x = np.linspace(-4, 4, 17)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    close = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    wanted = {"gelu": exact, "gelu_new": close, "relu": np.maximum(x, 0), "silu": x / (1 + np.exp(-x))}
    assert set(ACTIVATIONS) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.float32(x)), values, atol=2e-6, err_msg=name)


class TestDropout:
    def test_nothing_without_key_or_rate(self):
        x = jnp.arange(5.0)
        assert dropout(None, 0.5, x) is x and dropout(KEY, 0, x) is x

    def test_zeroes_a_share_and_keeps_the_mean(self):
        x = dropout(KEY, 0.25, jnp.ones(40_000))
        assert np.unique(np.asarray(x).round(4)).tolist() == pytest.approx([0, 4 / 3], abs=1e-4)
        assert float(x.mean()) == pytest.approx(1, abs=0.015)  # five standard deviations

    def test_no_key_stays_no_key(self):
        assert fold(None, 3) is None
        assert fold(KEY, 3) == jax.random.fold_in(KEY, 3) != fold(KEY, 4)


def by_numpy(query, key, value, mask, heads):
    """Softmax attention, one row, head and query at a time."""
    out = np.zeros(query.shape)
    width = query.shape[-1] // heads
    for row, token, head in np.ndindex(*query.shape[:2], heads):
        own = slice(head * width, (head + 1) * width)
        seen = np.flatnonzero(mask[row, min(token, mask.shape[1] - 1)])
        scores = key[row, seen, own] @ query[row, token, own] / math.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[row, token, own] = weights / weights.sum() @ value[row, seen, own]
    return out


class TestAttention:
    def test_equal_scores_give_the_mean_of_what_is_seen(self):
        value = jnp.array([[[1.0, 10.0], [3.0, 30.0], [100.0, 1000.0]]])
        mask = jnp.array([[[True, True, False]]])
        assert attention(jnp.zeros((1, 1, 2)), jnp.zeros((1, 3, 2)), value, mask, heads=1).tolist() == [[[2, 20]]]

    @settings(deadline=None, max_examples=10)
    @given(st.integers(0, 2**32), st.sampled_from([1, 2, 4]))
    def test_is_numpy_s(self, seed, heads):
        rng = np.random.default_rng(seed)
        query, key, value = (rng.normal(size=(2, tokens, 8)) for tokens in (3, 5, 5))
        mask = np.arange(5) < rng.integers(1, 6, (2, 1, 1))
        found = attention(jnp.float32(query), jnp.float32(key), jnp.float32(value), jnp.asarray(mask), heads=heads)
        np.testing.assert_allclose(found, by_numpy(query, key, value, mask, heads), atol=1e-5)

    def test_a_mask_may_differ_by_query(self):
        rng = np.random.default_rng(0)
        query, key, value = rng.normal(size=(3, 1, 4, 4))
        mask = np.tril(np.ones((1, 4, 4), bool))
        found = attention(jnp.float32(query), jnp.float32(key), jnp.float32(value), jnp.asarray(mask), heads=2)
        np.testing.assert_allclose(found, by_numpy(query, key, value, mask, 2), atol=1e-5)

    def test_dropout_of_the_weights_has_their_mean(self):
        query, two, mask = jnp.ones((2000, 1, 1)), jnp.ones((2000, 2, 1)), jnp.ones((2000, 1, 2), bool)
        found = attention(query, two, two, mask, heads=1, rate=0.5, random=KEY)
        assert np.unique(found).tolist() == [0, 1, 2]
        assert float(found.mean()) == pytest.approx(1, abs=0.08)
