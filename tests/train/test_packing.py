"""Texts in packed rows have the losses and the gradients of texts in rows of their own."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from lora_jax import data, methods, train, tree
from lora_jax.train import classification, language_modeling
from tests.models import small_decoders

KEY = jax.random.key(0)
LORA = methods.lora("query,value,mlp/up", rank=2)
WIDTH = 40  # of packed rows: two or more of the texts, which have 3 to 16 tokens


def adapted(model: Any, method: methods.Method = LORA) -> Any:
    """The model with an adapter whose leaves are all away from zero."""
    model = method.adapt(KEY, model)
    mask = methods.mask(model, method)
    changed = {}
    for path, leaf in tree.leaves(tree.split(model, mask)[0]).items():
        if not path.startswith("head"):
            changed[path] = leaf + 0.1
    return tree.replace(model, changed)


@pytest.fixture(params=["bert", "roberta", "regression", "prefix", "gpt2", "llama"])
def case(request, tiny) -> tuple[Any, methods.Method, train.Loss]:
    """A model, its method and a loss."""
    match request.param:
        case "bert" | "roberta":
            return adapted(tiny(request.param)), LORA, classification.loss
        case "regression":
            return adapted(tiny(labels=1)), LORA, classification.loss
        case "prefix":
            prefix = methods.prefix(prefix_length=3)
            return adapted(tiny(), prefix), prefix, classification.loss
        case "gpt2":
            return adapted(small_decoders.small_gpt2()), LORA, language_modeling.loss
    return adapted(small_decoders.small_llama()), LORA, language_modeling.loss


def gradient(case: Any, batch: data.Batch, **settings: Any) -> tuple[Any, Any]:
    model, method, loss = case
    trainable, frozen = tree.split(model, methods.mask(model, method))
    config = train.StepConfig(**settings)
    compiled = jax.jit(train.gradient, static_argnames=("loss", "config"))
    return compiled(trainable, frozen, batch, KEY, loss=loss, config=config)


def batch_of(examples: data.Encoded, size: int) -> data.Batch:
    """The first shuffled examples; with 12 of 32, the last batch is filled up."""
    *_, last = data.batches(examples, size=size, widths=(16,), seed=0, pad=1)
    return last


def test_losses_and_gradients(case, examples):
    batch = batch_of(examples, 12)
    assert (batch.index < 0).any() or len(batch.index) == 12
    packed = data.pack(batch, width=WIDTH, multiple=2, pad=1)
    assert packed.texts is not None
    assert packed.texts.max() > 1, "no two texts share a row: this shows nothing"
    expected_loss, expected = gradient(case, batch)
    loss, gradients = gradient(case, packed)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True)
    for leaf, expected_leaf in pairs:
        largest = np.abs(expected_leaf).max()
        np.testing.assert_allclose(leaf, expected_leaf, rtol=0, atol=1e-5 * largest)


def test_micro_batches_and_chunks_of_packed_rows(tiny, examples):
    case = adapted(tiny()), LORA, classification.loss
    batch = batch_of(examples, 12)
    packed = data.pack(batch, width=WIDTH, multiple=4, pad=1)
    loss, _ = gradient(case, packed, accumulate=4, attention="chunked")
    expected_loss, _ = gradient(case, batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)


class TestFit:
    CONFIG = train.TrainConfig(learning_rate=0.01, epochs=2, batch=8, accumulate=2)

    def fit(self, model: Any, examples: data.Encoded, config: train.TrainConfig):
        objective = train.Objective(classification.loss, examples, (8, 16), pad=1)
        mask = methods.mask(model, LORA)
        return train.fit(model, mask, objective, config, seed=0)

    def test_a_training_has_the_same_steps(self, tiny, examples):
        model = adapted(tiny())
        padded = self.fit(model, examples, self.CONFIG)
        packed = self.fit(model, examples, replace(self.CONFIG, pack=WIDTH))
        assert packed.tokens == padded.tokens
        np.testing.assert_allclose(packed.losses, padded.losses, rtol=1e-4)

    def test_a_row_is_as_long_as_the_longest_text(self, tiny, examples):
        message = (
            "pack: expected 0, or at least the 16 tokens of the longest row, got 8"
        )
        with pytest.raises(ValueError, match=message):
            self.fit(adapted(tiny()), examples, replace(self.CONFIG, pack=8))

    def test_a_text_has_positions_in_the_model(self, tiny, examples):
        message = (
            "pack: expected texts of at most 12 tokens, the model's positions, "
            "got one of 16"
        )
        with pytest.raises(ValueError, match=message):
            self.fit(
                adapted(tiny(max_positions=12)),
                examples,
                replace(self.CONFIG, pack=WIDTH),
            )

    def test_a_packed_row_may_be_longer_than_the_model_has_positions(
        self, tiny, examples
    ):
        model = adapted(tiny(max_positions=16))
        packed = self.fit(model, examples, replace(self.CONFIG, epochs=1, pack=WIDTH))
        padded = self.fit(model, examples, replace(self.CONFIG, epochs=1))
        np.testing.assert_allclose(packed.losses, padded.losses, rtol=1e-4)
