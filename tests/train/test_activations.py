"""Activations in bfloat16: what they change in a training, and what stays float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods, train, tree
from lora_jax.nn.engine import Engine
from tests.models import small_decoders
from tests.train.batches import text_batch
from tests.train.trainings import FAMILIES, KEY, LORA, losses, model_and_loss

NARROW = Engine(activations="bfloat16")


@pytest.fixture(params=FAMILIES)
def case(request, tiny) -> tuple[Any, train.Loss]:
    """A model of each family, and a loss."""
    return model_and_loss(request.param, tiny)


def test_a_training_is_that_in_float32(case):
    exact = losses(*case, compute_dtype="float32")
    narrow = losses(*case, compute_dtype="bfloat16_activations")
    # It learns something that rounding could have kept it from.
    assert exact[-4:].mean() < 0.95 * exact[:4].mean()
    assert not np.array_equal(narrow, exact)
    # The rows of BERT's batches are learned by heart: near 0 a share says nothing.
    np.testing.assert_allclose(narrow, exact, atol=0.03 * exact[0])


class TestDtypes:
    TOKENS = small_decoders.token_rows()

    def hidden(self, model):
        return jax.eval_shape(lambda: model.hidden(self.TOKENS, engine=NARROW))

    def test_the_residual_stream_is_bfloat16(self, tiny):
        for model in (tiny(), small_decoders.small_gpt2()):
            assert self.hidden(model).dtype == jnp.bfloat16
        adapted = small_decoders.with_adapters(
            small_decoders.small_llama(), "query,up,down"
        )
        assert self.hidden(adapted).dtype == jnp.bfloat16

    def test_logits_and_gradients_are_float32(self, case):
        model, loss = case
        model = LORA.adapt(KEY, model)
        trainable, frozen = tree.split(model, methods.mask(model, LORA))
        config = train.StepConfig(compute_dtype="bfloat16_activations")
        value, gradients = jax.eval_shape(
            lambda: train.gradient(
                trainable, frozen, text_batch(), KEY, loss=loss, config=config
            )
        )
        dtypes = {leaf.dtype for leaf in jax.tree.leaves((value, gradients))}
        assert dtypes == {np.dtype("float32")}

    def test_a_classifier_reads_bfloat16_states_in_float32(self, tiny):
        logits = jax.eval_shape(lambda: tiny()(self.TOKENS, engine=NARROW))
        assert logits.dtype == jnp.float32


def test_no_more_is_kept_than_half_as_much(tiny):
    """The residuals of a block of an encoder, of which all are activations."""
    model = tiny(layers=3)

    def kept_bytes(engine: Engine) -> int:
        tokens = text_batch(rows=4, width=16).tokens
        embedding = model.embed.tokens.embedding[...]

        def total(embedding):
            changed = tree.replace(model, {"embed/tokens/embedding": embedding})
            return changed.hidden(tokens, engine=engine).astype(jnp.float32).sum()

        _, pullback = jax.eval_shape(lambda: jax.vjp(total, embedding))
        return sum(
            leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback)
        )

    assert kept_bytes(NARROW) < 0.75 * kept_bytes(Engine())
