"""Cross-entropy in chunks: value and gradients against optax's, and its memory."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.train import cross_entropy
from tests.train.jaxprs import equations, output_shapes


@jax.jit
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def exact(x, kernel, labels, weight, smoothing):
    """Three times optax's cross-entropy, of all logits at once."""
    target = jax.nn.one_hot(labels, kernel.shape[-1])
    target = optax.smooth_labels(target, smoothing)
    by_token = optax.softmax_cross_entropy(x @ kernel, target)
    return 3 * (weight * by_token).sum()


@functools.cache
def value_and_gradients(chunk: int, smoothing: float) -> Any:
    """Return the function for three times ours, with chunks of so many tokens."""

    def tripled(x, kernel, labels, weight):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cross_entropy, "CHUNK", chunk)
            total: Any = cross_entropy.cross_entropy(
                x, kernel, labels, weight, smoothing
            )
        # Three times, so that the gradient passed back is not 1.
        return 3 * total

    return jax.jit(jax.value_and_grad(tripled, argnums=(0, 1)))


@st.composite
def weights(draw, rows: int, tokens: int) -> np.ndarray:
    """Weights of a stretch of each row, with gaps; of some rows none."""
    weight = np.zeros((rows, tokens), np.float32)
    ends = st.lists(st.integers(0, tokens), min_size=2, max_size=2)
    for row in weight:
        first, stop = sorted(draw(ends))
        length = stop - first
        values = st.sampled_from([0.0, 0.5, 1.0])
        row[first:stop] = draw(st.lists(values, min_size=length, max_size=length))
    return weight


# Shape [B, T], tokens of a chunk, smoothing.
CASES = [
    ((1, 9), 4, 0.0),
    ((3, 7), 1, 0.0),
    ((3, 7), 8, 0.1),
    ((3, 7), 256, 0.1),
]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(CASES))
def test_value_and_gradients_are_those_of_optax(drawn, case):
    shape, chunk, smoothing = case
    weight = drawn.draw(weights(*shape))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*shape, 5))
    kernel = rng.normal(size=(5, 11))
    labels = rng.integers(0, 11, shape)

    ours = value_and_gradients(chunk, smoothing)(
        jnp.float32(x), jnp.float32(kernel), labels, weight
    )
    with jax.enable_x64(True):
        expected = exact(x, kernel, labels, np.float64(weight), smoothing)
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
    for value, expected_value in pairs:
        np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("smoothing", "target"), [(0.0, 1.0), (0.2, 0.9)])
def test_by_hand(smoothing, target):
    """Probabilities 1/4 and 3/4, of which the second is the target, and a weight of 2."""
    x = jnp.ones((1, 1, 1))
    kernel = jnp.array([[0.0, math.log(3)]])
    labels = jnp.array([[1]])
    weight = jnp.array([[2.0]])
    total = cross_entropy.cross_entropy(x, kernel, labels, weight, smoothing)
    of_target = target * math.log(0.75)
    of_other = (1 - target) * math.log(0.25)
    log_likelihood = of_target + of_other
    assert float(total) == pytest.approx(-2 * log_likelihood)


@pytest.mark.parametrize("argnums", [0, (0, 1)], ids=["frozen head", "trainable head"])
def test_only_the_logits_of_a_chunk_exist(argnums):
    """4,096 tokens of 8,192 words have logits of 134 MB; a chunk of 256 has 8.4 MB."""
    rows, tokens, d, vocabulary = 16, 256, 8, 8192
    step = jax.value_and_grad(cross_entropy.cross_entropy, argnums)
    traced = jax.jit(step, static_argnums=4).trace(
        jax.ShapeDtypeStruct((rows, tokens, d), "float32"),
        jax.ShapeDtypeStruct((d, vocabulary), "float32"),
        jax.ShapeDtypeStruct((rows, tokens), "int32"),
        jax.ShapeDtypeStruct((rows, tokens), "float32"),
        0.1,
    )
    sizes = set()
    for equation in equations(traced.jaxpr.jaxpr):
        for shape in output_shapes(equation):
            if vocabulary in shape:
                sizes.add(math.prod(shape))
    assert max(sizes) == cross_entropy.CHUNK * vocabulary

    memory = traced.lower().compile().memory_analysis()
    assert memory is not None
    # Bytes in float32. A chunk has its logits, their gradient and a few more.
    chunk_bytes = 4 * cross_entropy.CHUNK * vocabulary
    kernel_bytes = 4 * d * vocabulary
    bound = 4 * chunk_bytes + 4 * kernel_bytes
    all_logits = 4 * rows * tokens * vocabulary
    assert memory.temp_size_in_bytes < bound < all_logits / 2
