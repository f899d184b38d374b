"""The loss of classifiers and regressors, and batched prediction."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods
from lora_jax.train import classification


@pytest.fixture(scope="module")
def model(tiny):
    return methods.lora(rank=4).adapt(jax.random.key(1), tiny())


class TestLosses:
    def test_cross_entropy_of_smoothed_labels(self):
        logits = jnp.array([[0.0, math.log(3)]])  # probabilities 1/4 and 3/4
        label = jnp.array([1])
        smoothed = float(classification.losses(logits, label, 0.2)[0])
        # A share of 0.2 is spread over both classes.
        by_hand = -(0.1 * math.log(0.25) + 0.9 * math.log(0.75))
        assert smoothed == pytest.approx(by_hand, rel=1e-6)
        plain = float(classification.losses(logits, label, 0.0)[0])
        assert plain == pytest.approx(math.log(4 / 3), rel=1e-6)

    def test_one_output_is_a_squared_error(self):
        outputs = jnp.array([[1.0], [2.5]])
        by_row = classification.losses(outputs, jnp.array([3.0, 2.0]), 0.2)
        assert by_row.tolist() == [4.0, 0.25]


def predict(model, examples, *, size=32, widths=(16,), compute_dtype="float32"):
    return classification.predict(
        model,
        examples,
        size=size,
        widths=widths,
        pad=1,
        compute_dtype=compute_dtype,
    )


def test_predictions_come_in_the_order_of_the_examples(model, examples):
    logits = predict(model, examples, size=5, widths=(8, 16))
    # All rows at once, in the order of the examples.
    tokens = np.full((32, 16), 1, np.int32)
    segments = np.zeros((32, 16), np.int32)
    offsets = examples.offsets
    for row in range(32):
        start = offsets[row]
        end = offsets[row + 1]
        size = end - start
        tokens[row, :size] = examples.tokens[start:end]
        segments[row, :size] = examples.segments[start:end]
    forward = jax.jit(type(model).__call__)
    expected = forward(model, tokens, segments, examples.lengths)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_close_to_float32(model, examples):
    exact = predict(model, examples)
    rounded = predict(model, examples, compute_dtype="bfloat16")
    assert rounded.dtype == np.float32
    error = np.abs(rounded - exact).max()
    assert 0 < error < 0.05 * np.abs(exact).max()
