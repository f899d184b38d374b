"""Fifty steps of LoRA on tiny random models of each family, for their losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import methods, quant, train, tree
from lora_jax.train import classification, language_modeling
from tests.models import small_decoders
from tests.train.batches import text_batch

KEY = jax.random.key(0)
LORA = methods.lora("query,value", rank=4)
FAMILIES = ("bert", "gpt2", "llama", "llama in nf4")
STEPS = 50


def model_and_loss(family: str, tiny: Any) -> tuple[Any, train.Loss]:
    """Return a model of a family, and its loss; `tiny` makes the encoder."""
    if family == "bert":
        return tiny(), classification.loss
    if family == "gpt2":
        return small_decoders.small_gpt2(), language_modeling.loss
    model = small_decoders.small_llama()
    if family == "llama in nf4":
        model = quant.quantize_model(model, quant.find_spec("nf4"))
    return model, language_modeling.loss


def losses(
    model: Any,
    loss: train.Loss,
    *,
    method: methods.Method = LORA,
    rate: float = 0.01,
    **settings: Any,
) -> np.ndarray:
    """Return the losses of `STEPS` steps on four batches in turn.

    `settings` are those of the step, beside the clipping.
    """
    model = method.adapt(KEY, model)
    trainable, frozen = tree.split(model, methods.mask(model, method))
    # A step takes the memory of what it is passed, a head of the case's model too.
    trainable = jax.tree.map(jnp.copy, trainable)
    config = train.StepConfig(clip=1.0, **settings)
    state = train.optimizer(config).init(trainable)
    batches = [text_batch(rows=8, width=12, seed=seed) for seed in range(4)]
    values = []
    for step in range(STEPS):
        trainable, state, value = train.train_step(
            trainable,
            state,
            frozen,
            batches[step % 4],
            jnp.float32(rate),
            KEY,
            loss=loss,
            config=config,
        )
        values.append(float(value))
    return np.array(values)
