"""What XLA says of the memory of a compiled training step.

The model may be made of shapes: the step is compiled and not run.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from lora_jax import data, devices, train
from lora_jax.models.decoder import Decoder
from lora_jax.train import classification, language_modeling, sharding


def compiled_bytes(
    trainable: Any,
    frozen: Any,
    *,
    batch: int,
    length: int,
    compute_dtype: str = "float32",
    remat: str = "none",
    attention: str = "auto",
) -> dict[str, int]:
    """Return the bytes of a step's arguments and temporaries, and the total.

    The total includes results that do not take an argument's place. Arguments are as
    for `step_memory.predict_memory`.

    Raises:
        ValueError: the backend does not say.
    """
    settings: Any = {
        "compute_dtype": compute_dtype,
        "remat": remat,
        "attention": attention,
    }
    config = train.step_config(train.TrainConfig(**settings))
    return step_bytes(
        trainable,
        frozen,
        batch=batch,
        length=length,
        loss=loss_of(trainable),
        config=config,
    )


def loss_of(model: Any) -> train.Loss:
    """Return the loss that a model is trained with: a decoder's, or a classifier's."""
    if isinstance(model, Decoder):
        return language_modeling.loss
    return classification.loss


def step_bytes(
    trainable: Any,
    frozen: Any,
    *,
    batch: int,
    length: int,
    loss: train.Loss,
    config: train.StepConfig,
    places: train.Placement | None = None,
) -> dict[str, int]:
    """Return the bytes of any step, as `compiled_bytes` does of a classifier's.

    With `places` they are those of one of the devices that the step is spread over.
    """
    # Everything the step takes, as shapes.
    state = jax.eval_shape(train.optimizer(config).init, trainable)
    rows = abstract_batch(batch, length)
    learning_rate = jax.ShapeDtypeStruct((), "float32")
    # Its kind depends on jax's settings.
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = trainable, state, frozen, rows, learning_rate, key
    use: AbstractContextManager = nullcontext()
    if places is not None:
        use = devices.use(places.mesh)
        *spread, _, learning_rate, key = places.described(arguments)
        rows = sharding.describe(rows, sharding.row_sharding(places.mesh))
        arguments = *spread, rows, learning_rate, key
    with use:
        lowered = train.train_step.lower(*arguments, loss=loss, config=config)
    # XLA lays buffers out before it makes machine code. That code is not run and need
    # not be good, which halves the time.
    compiled = lowered.compile({"xla_backend_optimization_level": "0"})
    return analyzed_bytes(compiled.memory_analysis())


def analyzed_bytes(analysis: Any) -> dict[str, int]:
    """Return the bytes of a compiled program's arguments and temporaries, and in all.

    Raises:
        ValueError: the backend does not say.
    """
    if analysis is None:
        raise ValueError(
            "expected a backend that says what memory a program takes, "
            f"got {jax.default_backend()}"
        )
    # Donated arguments and the results that take their place count once.
    arguments = analysis.argument_size_in_bytes
    temporary = analysis.temp_size_in_bytes
    new_results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return {
        "arguments": arguments,
        "temporary": temporary,
        "total": arguments + temporary + new_results,
    }


def abstract_batch(batch: int, length: int) -> data.Batch:
    """Return the shapes of `batch` rows of `length` tokens."""
    # [B, T], and [B] of whole numbers and of weights.
    tokens: Any = jax.ShapeDtypeStruct((batch, length), "int32")
    integers: Any = jax.ShapeDtypeStruct((batch,), "int32")
    weights: Any = jax.ShapeDtypeStruct((batch,), "float32")
    return data.Batch(
        tokens=tokens,
        segments=tokens,
        length=integers,
        label=integers,
        weight=weights,
        index=integers,
    )
