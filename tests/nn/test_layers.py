"""The layers against a few numbers by hand and plain numpy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.nn.layers import (
    ACTIVATIONS,
    MLP,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    dropout,
    fold_key,
)

KEY = jax.random.key(0)


class TestLinear:
    KERNEL = jnp.array([[1.0, 2.0], [3.0, 4.0]])

    def test_with_a_bias(self):
        x = jnp.array([1.0, 1.0])
        bias = jnp.array([10.0, 20.0])
        layer = Linear(self.KERNEL, bias)
        # 1 + 3 and 2 + 4, plus the bias
        y = layer(x)
        assert y.tolist() == [14, 26]

    def test_without_a_bias(self):
        x = jnp.array([1.0, -1.0])
        layer = Linear(self.KERNEL)
        # 1 - 3 and 2 - 4
        y = layer(x)
        assert y.tolist() == [-2, -2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_output_has_the_dtype_of_the_input(dtype):
    x = jnp.ones((2, 3), dtype)
    kernel = jnp.ones((3, 4))
    bias = jnp.ones(4)
    ones = jnp.ones(3)
    linear = Linear(kernel, bias)
    norm = LayerNorm(ones, ones, epsilon=1e-6)
    assert linear(x).dtype == dtype
    assert norm(x).dtype == dtype


def test_embedding_gives_rows():
    layer = Embedding(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    tokens = jnp.array([[1, 0], [1, 1]])
    rows = layer(tokens)
    assert rows.shape == (2, 2, 2)
    assert rows[0].tolist() == [[3, 4], [1, 2]]
    assert rows[1].tolist() == [[3, 4], [3, 4]]


def test_mlp_by_hand():
    up = jnp.array([[1.0, -1.0]])
    down = jnp.array([[2.0], [3.0]])
    mlp = MLP(
        Linear(up),
        Linear(down),
        activation="relu",
    )
    # 5 goes up to (5, -5), of which relu leaves (5, 0), and down to 2 * 5.
    x = jnp.full((1, 1, 1), 5.0)
    y = mlp(x)
    assert y.tolist() == [[[10]]]


class TestLayerNorm:
    def test_by_hand(self):
        # (1, 3) has mean 2 and variance 1. With epsilon 3 the root is 2, and the
        # normalized numbers are (-1/2, 1/2); times (2, 4), plus (1, 0).
        scale = jnp.array([2.0, 4.0])
        bias = jnp.array([1.0, 0.0])
        layer = LayerNorm(scale, bias, epsilon=3.0)
        y = layer(jnp.array([1.0, 3.0]))
        np.testing.assert_allclose(y, [0, 2], atol=1e-6)

    def test_values_far_from_zero(self):
        rng = np.random.default_rng(0)
        x = 1000 + rng.normal(size=(4, 64))
        mean = x.mean(-1, keepdims=True)
        variance = x.var(-1, keepdims=True)
        deviation = np.sqrt(variance + 1e-6)
        expected = (x - mean) / deviation

        layer = LayerNorm(
            jnp.ones(64),
            jnp.zeros(64),
            epsilon=1e-6,
        )
        y = layer(jnp.float32(x))
        # float32 holds 1000 to 6e-5.
        np.testing.assert_allclose(y, expected, atol=2e-3)

    def test_its_gradient_is_the_difference_quotient(self):
        scale = jnp.array([2.0, 4.0, 1.0])
        layer = LayerNorm(scale, jnp.zeros(3), epsilon=0.1)
        x = np.array([1.0, 3.0, -2.0])

        def total(x):
            return jnp.sum(layer(jnp.float32(x)) ** 3)

        distance = 1e-2
        slopes = []
        for unit in np.eye(3):
            step = distance * unit
            rise = total(x + step) - total(x - step)
            slope = float(rise) / (2 * distance)
            slopes.append(slope)
        gradient = jax.grad(total)(jnp.float32(x))
        np.testing.assert_allclose(
            gradient,
            slopes,
            rtol=0.01,
            atol=0.05,
        )


def test_rms_norm_by_hand():
    layer = RMSNorm(jnp.array([1.0, 2.0]), epsilon=0.5)
    y = layer(jnp.array([3.0, 4.0]))
    # The mean square is 25/2, with epsilon 13.
    expected = np.array([3.0, 8.0]) / math.sqrt(13)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


X = np.linspace(-4, 4, 17)
ERF = np.array([math.erf(x / math.sqrt(2)) for x in X])
CUBIC = X + 0.044715 * X**3
TANH = np.tanh(math.sqrt(2 / math.pi) * CUBIC)
BY_NUMPY = {
    "gelu": X * (1 + ERF) / 2,
    "gelu_new": X * (1 + TANH) / 2,
    "relu": np.maximum(X, 0),
    "silu": X / (1 + np.exp(-X)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    activate = ACTIVATIONS[name]
    y = activate(jnp.float32(X))
    np.testing.assert_allclose(y, BY_NUMPY[name], atol=2e-6)


class TestDropout:
    def test_nothing_without_key_or_rate(self):
        x = jnp.arange(5.0)
        assert dropout(None, 0.5, x) is x
        assert dropout(KEY, 0, x) is x

    def test_it_zeroes_a_share_and_keeps_the_mean(self):
        x = dropout(KEY, 0.25, jnp.ones(40_000))
        dropped, kept = np.unique(x)
        assert dropped == 0
        assert kept == pytest.approx(4 / 3, abs=1e-4)
        # 0.015 is five standard deviations.
        mean = float(x.mean())
        assert mean == pytest.approx(1, abs=0.015)


class TestFoldKey:
    def test_no_key_stays_no_key(self):
        assert fold_key(None, 3) is None

    def test_it_is_jax_s(self):
        assert fold_key(KEY, 3) == jax.random.fold_in(KEY, 3)
        assert fold_key(KEY, 3) != fold_key(KEY, 4)
