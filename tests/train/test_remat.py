"""What the backward pass computes anew: the same gradients from less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, methods, quant, train, tree
from lora_jax.nn.blocks import REMATS
from lora_jax.train import classification, language_modeling
from tests.models import small_decoders

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


def text_batch(rows: int = 3, width: int = 10) -> data.Batch:
    """Rows of text, all of which the loss is about."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 50, (rows, width)).astype(np.int32)
    return data.Batch(
        tokens=tokens,
        segments=np.ones_like(tokens),
        length=np.full(rows, width, np.int32),
        label=np.zeros(rows, np.int32),
        weight=np.ones(rows, np.float32),
        index=np.arange(rows, dtype=np.int32),
    )


@pytest.fixture(params=["an encoder", "two stacks", "a decoder in 4 bits"])
def case(request, tiny, batch) -> tuple[Any, data.Batch, train.step.Loss]:
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
        ValueError, match="remat: expected one of none, block, products"
    ):
        train.check(config)
