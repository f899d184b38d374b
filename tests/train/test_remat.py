"""What the backward pass computes anew: the same gradients from less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, devices, methods, quant, train, tree
from lora_jax.nn.blocks import REMATS
from lora_jax.train import classification, language_modeling
from lora_jax.train.remat import estimate, resolved, stored_bytes
from tests.models import small_decoders
from tests.train.batches import text_batch

KEY = jax.random.key(0)
# Dropout of the model's own places and of the adapters' inputs.
CONFIG = train.StepConfig(hidden_dropout=0.3)
LORA = methods.lora("query,value,mlp/up", rank=2, dropout=0.3)
ANEW = [name for name in REMATS if name != "none"]


def adapted(model: Any) -> Any:
    """The model with an adapter whose factors are all away from zero."""
    model = LORA.adapt(KEY, model)
    factors = {}
    for path, leaf in tree.leaves(model).items():
        if "lora_" in path:
            factors[path] = leaf + 0.1
    return tree.replace(model, factors)


@pytest.fixture(params=["an encoder", "two stacks", "a decoder in 4 bits"])
def case(request, tiny, batch) -> tuple[Any, data.Batch, train.Loss]:
    """A model, a batch and a loss."""
    if request.param == "an encoder":
        return adapted(tiny(layers=3)), batch, classification.loss
    if request.param == "two stacks":
        model = methods.top(1).adapt(KEY, tiny(layers=3))
        return adapted(model), batch, classification.loss
    model = small_decoders.small_llama()
    model = quant.quantize_model(model, quant.find_spec("nf4"))
    return adapted(model), text_batch(), language_modeling.loss


def gradients(case: Any, remat: str) -> list[Any]:
    model, batch, loss = case
    trainable, frozen = tree.split(model, methods.mask(model, LORA))
    compiled = jax.jit(train.gradient, static_argnames=("loss", "config"))
    config = CONFIG._replace(remat=remat)
    return jax.tree.leaves(
        compiled(trainable, frozen, batch, KEY, loss=loss, config=config)
    )


def test_the_gradients_and_the_dropout_are_those_without(case):
    expected = gradients(case, "none")
    for remat in ANEW:
        for leaf, expected_leaf in zip(gradients(case, remat), expected, strict=True):
            np.testing.assert_allclose(leaf, expected_leaf, rtol=1e-5, atol=1e-6)


def test_it_takes_less_memory(tiny):
    # Wide enough that activations outweigh all else.
    model = adapted(tiny(layers=6, max_positions=80))
    trainable, frozen = tree.split(model, methods.mask(model, LORA))
    batch = text_batch(rows=16, width=64)
    temporary = {}
    for remat in REMATS:
        config = train.StepConfig(remat=remat)
        state = train.optimizer(config).init(trainable)
        lowered = train.train_step.lower(
            trainable,
            state,
            frozen,
            batch,
            jnp.float32(0.01),
            KEY,
            loss=classification.loss,
            config=config,
        )
        memory = lowered.compile().memory_analysis()
        assert memory is not None
        temporary[remat] = memory.temp_size_in_bytes
    assert temporary["block"] < temporary["products"] < temporary["none"] / 1.5


def test_an_unknown_name_is_refused():
    config: Any = train.TrainConfig(remat="some")  # pyright: ignore
    with pytest.raises(
        ValueError, match="remat: expected one of auto, none, block, products"
    ):
        train.check(config)


class TestChoice:
    def test_the_less_memory_the_more_is_computed_anew(self, tiny):
        parts = split(adapted(tiny(layers=3)))
        stored = stored_bytes(*parts)
        trainable, frozen = parts
        assert stored == 4 * tree.nbytes(trainable) + tree.nbytes(frozen)

        def choice(memory):
            config = train.TrainConfig()
            return resolved(config, *parts, rows=8, length=64, memory=memory).remat

        for remat, slower in (("none", "products"), ("products", "block")):
            config: Any = train.TrainConfig(remat=remat)  # pyright: ignore
            needed = estimate(config, *parts, rows=8, length=64)
            # 0.8 of the memory may be filled.
            exact = (stored + needed) / 0.8
            assert choice(int(exact) + 2) == remat
            assert choice(int(exact) - 2) == slower
        assert choice(1) == "block"
        assert choice(None) == "none"

    def test_what_is_said_stays(self, tiny):
        config = train.TrainConfig(remat="products")
        parts = split(adapted(tiny(layers=3)))
        assert resolved(config, *parts, rows=8, length=64, memory=1) == config

    def test_a_training_chooses_by_the_memory_of_its_devices(
        self, tiny, examples, monkeypatch
    ):
        model = adapted(tiny())
        mask = methods.mask(model, LORA)
        config = train.TrainConfig(epochs=1, batch=8, hidden_dropout=0.3)
        objective = train.Objective(classification.loss, examples, (16,), pad=1)
        fits = []
        for memory in (1, 10**12):
            monkeypatch.setattr(devices, "memory_bytes", lambda memory=memory: memory)
            fits.append(train.fit(model, mask, objective, config, seed=0))
        assert [fit.remat for fit in fits] == ["block", "none"]
        np.testing.assert_allclose(fits[0].losses, fits[1].losses, rtol=1e-5)


def split(model: Any) -> tuple[Any, Any]:
    return tree.split(model, methods.mask(model, LORA))
