"""A training step whose attention is chunked: the same gradients as with plain one."""

from typing import Any

import jax
import numpy as np
import pytest

from lora_jax import data, methods, train, tree
from lora_jax.nn import attend
from lora_jax.train import classification, language_modeling
from tests.models import small_decoders
from tests.train.batches import text_batch

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(attend, "CPU_WIDTH", 3)


@pytest.fixture(params=["an encoder", "an encoder with a prefix", "a decoder"])
def case(request, tiny) -> tuple[Any, methods.Method, train.step.Loss]:
    if request.param == "an encoder":
        return tiny(layers=3), methods.lora("query,value", 2), classification.loss
    if request.param == "an encoder with a prefix":
        return tiny(layers=3), methods.prefix(2), classification.loss
    model = small_decoders.small_llama()
    return model, methods.lora("query,value", 2), language_modeling.loss


def padded_batch() -> data.Batch:
    batch = text_batch(rows=3, width=10)
    return batch._replace(length=np.array([10, 4, 7], np.int32))


def split(case: Any) -> tuple[Any, Any]:
    model, method, _ = case
    adapted = jax.jit(method.adapt)(KEY, model)
    trainable, frozen = tree.split(adapted, methods.mask(adapted, method))
    # Away from zero, so that both factors of an adapter have a gradient.
    return jax.tree.map(lambda leaf: leaf + 0.1, trainable), frozen


def gradients(case: Any, cells: int, **settings: Any) -> Any:
    """The gradients of cells whose trainable leaves differ, as a population has them."""
    trainable, frozen = split(case)
    config = train.StepConfig(**settings)

    def gradient(factor):
        scaled = jax.tree.map(lambda leaf: factor * leaf, trainable)
        return train.gradient(
            scaled, frozen, padded_batch(), KEY, loss=case[2], config=config
        )

    return jax.jit(jax.vmap(gradient))(1 + np.arange(cells, dtype=np.float32))


def test_the_gradients_are_those_of_plain_attention(case):
    expected = gradients(case, 2, attention="plain")
    chunked = gradients(case, 2, attention="chunked", remat="block")
    pairs = zip(jax.tree.leaves(chunked), jax.tree.leaves(expected), strict=True)
    for leaf, expected_leaf in pairs:
        largest = np.abs(expected_leaf).max()
        np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-6 * largest)


def test_prompts_that_are_padded_before_are_read_alike(monkeypatch):
    """Generation reads prompts with the choice that is made for their length."""
    model = small_decoders.small_llama()
    tokens = small_decoders.token_rows()
    start = np.array([3, 0, 6])

    def read():
        cache = model.cache(3, 14)
        # Another function for jax each time, so that it is compiled anew.
        return jax.jit(lambda: model.extend(tokens, cache, 0, start)[0])()

    expected = read()
    monkeypatch.setattr(attend, "CPU_QUERIES", 10)
    states = read()
    for row, first in enumerate(start):
        np.testing.assert_allclose(
            states[row, first:], expected[row, first:], rtol=1e-5, atol=1e-6
        )
    assert not np.array_equal(states, expected), "the prompts were not chunked"
