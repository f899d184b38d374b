"""Training adapters in bfloat16: moments, updates, micro-batches, and what is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import methods, train, tree
from lora_jax.train.remat import stored_bytes
from tests.train.batches import text_batch
from tests.train.trainings import FAMILIES, KEY, LORA, losses, model_and_loss

NARROW = methods.with_adapter_dtype(LORA, "bfloat16")
PLAIN = train.StepConfig()


@pytest.fixture(scope="module")
def parts(tiny):
    """The trainable leaves of an encoder, and the others."""
    model = NARROW.adapt(KEY, tiny())
    # Away from the start, where A has no gradient.
    trainable, frozen = tree.split(model, methods.mask(model, NARROW))
    return jax.tree.map(lambda leaf: leaf + jnp.bfloat16(0.1), trainable), frozen


def stepped(weights, gradients, rate):
    """The weights, in bfloat16, after AdamW's steps of these gradients."""
    optimizer = train.optimizer(PLAIN)
    weights = {"kernel": jnp.array(weights, jnp.bfloat16)}
    state = optimizer.init(weights)
    for gradient in gradients:
        leaf = {"kernel": jnp.array(gradient, jnp.bfloat16)}
        updates, state = optimizer.update(leaf, state, weights)
        scaled = {"kernel": -rate * updates["kernel"]}
        weights = optax.apply_updates(weights, scaled)
    return weights["kernel"], state


def test_an_update_of_less_than_half_a_unit_in_the_last_place_is_lost():
    # Adam's first update is the rate. Above 1 a unit of bfloat16 is 1/128.
    weights, _ = stepped([1.0, 1.0 / 512], [[-1.0, -1.0]], 1 / 300)
    assert weights.dtype == jnp.bfloat16
    assert weights[0] == 1
    assert weights[1] == jnp.bfloat16(1 / 512 + 1 / 300)
    weights, _ = stepped([1.0], [[-1.0]], 1 / 200)
    assert weights[0] == 1 + 1 / 128


def test_moments_are_those_of_numpy_in_float32():
    rng = np.random.default_rng(0)
    gradients = np.array(rng.normal(size=(40, 5)), jnp.bfloat16)
    weights, state = stepped(np.ones(5), gradients, 0.01)
    m = v = np.zeros(5)
    expected = np.ones(5, jnp.bfloat16)
    for number, gradient in enumerate(np.float64(gradients), start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**number)) / (np.sqrt(v / (1 - 0.999**number)) + 1e-8)
        expected = (np.float32(expected) - np.float32(0.01 * step)).astype(jnp.bfloat16)
    for name, moment in (("mu", m), ("nu", v)):
        ours = optax.tree.get(state, name)["kernel"]
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, moment, rtol=1e-4, atol=1e-6)
    assert (weights == expected).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_is_near_that_in_float32(family, tiny):
    case = model_and_loss(family, tiny)
    exact = losses(*case)
    narrow = losses(*case, method=NARROW)
    assert exact[-4:].mean() < 0.95 * exact[:4].mean()
    assert not np.array_equal(narrow, exact)
    np.testing.assert_allclose(narrow, exact, atol=0.03 * exact[0])


def test_the_memory_of_moments_is_known(parts):
    trainable, frozen = parts
    state = train.optimizer(PLAIN).init(trainable)
    count = 4
    assert train.moment_bytes(trainable) == tree.nbytes(state) - count
    weights = 2 * tree.nbytes(trainable) + tree.nbytes(frozen)
    assert stored_bytes(*parts) == weights + train.moment_bytes(trainable)


def test_micro_batches_are_summed_in_float32(tiny, parts):
    _, loss = model_and_loss("bert", tiny)
    gradient = jax.jit(train.gradient, static_argnames=("loss", "config"))
    results = []
    for count in (1, 4):
        config = train.StepConfig(accumulate=count)
        _, gradients = gradient(
            *parts, text_batch(rows=8), KEY, loss=loss, config=config
        )
        results.append(tree.leaves(gradients))
    for path, leaf in results[1].items():
        assert leaf.dtype == jnp.float32
        # The gradient of each micro-batch is rounded, their sum is not.
        expected = results[0][path]
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(leaf, expected, atol=0.01 * scale)
