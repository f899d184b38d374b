"""A training step, compiled and ready to be timed in turn with others, so that a machine that slows down favours none."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import data, devices, methods, train, tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.train import classification, language_modeling


class Step(NamedTuple):
    """`run()` does one training step and waits for it; `facts` are its sizes, in bytes."""

    run: Callable[[], None]
    facts: dict[str, float]


def training_step(
    model: Any, method: methods.Method, *, batch: int, length: int, compute_dtype: str
) -> Step:
    """The library's own step of an adapted model, on random tokens, over as many devices as there are.

    Facts: `optimizer`, `checkpoint`, and of a device as XLA says `temporary` and `peak` (arguments, results, temporaries).
    """
    model = method.adapt(jax.random.key(0), model)
    config = train.step_config(train.TrainConfig(compute_dtype=compute_dtype))
    loss = classification.loss
    if isinstance(model, Decoder):
        loss = language_modeling.loss
    mesh = devices.mesh(batch)
    trainable, frozen = tree.split(model, methods.mask(model, method))
    frozen = devices.replicate(precision.cast_kernels(frozen, compute_dtype), mesh)
    state = train.optimizer(config).init(trainable)
    now = list(devices.replicate((jax.tree.map(jnp.copy, trainable), state), mesh))
    rows = devices.shard_rows(
        random_batch(batch, length, model.config.vocabulary), mesh
    )
    rest = (
        frozen,
        rows,
        *devices.replicate((jnp.float32(1e-3), jax.random.key(1)), mesh),
    )
    lowered = train.train_step.lower(*now, *rest, loss=loss, config=config)
    compiled = lowered.compile()
    said: Any = compiled.memory_analysis()
    peak = (
        said.argument_size_in_bytes
        + said.output_size_in_bytes
        - said.alias_size_in_bytes
        + said.temp_size_in_bytes
    )

    def run():
        *now[:], loss = compiled(*now, *rest)
        loss.block_until_ready()

    facts = {
        "optimizer": tree.nbytes(state),
        "checkpoint": tree.nbytes(trainable),
        "temporary": said.temp_size_in_bytes,
        "peak": peak,
    }
    return Step(run, facts)


def random_batch(rows: int, length: int, vocabulary: int) -> data.Batch:
    """Random tokens, all real, of two classes."""
    rng, shape = np.random.default_rng(0), (rows, length)
    return data.Batch(
        tokens=rng.integers(5, vocabulary, shape, dtype=np.int32),
        segments=np.zeros(shape, np.int32),
        length=np.full(rows, length, np.int32),
        label=np.arange(rows, dtype=np.int32) % 2,
        weight=np.ones(rows, np.float32),
        index=np.arange(rows, dtype=np.int32),
    )


def interleaved(steps: Sequence[Step], times: int) -> list[list[float]]:
    """Seconds of each run of each step; two more, that are not given, come first."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(2 + times):
        for step, taken in zip(steps, seconds, strict=True):
            began = time.perf_counter()
            step.run()
            taken.append(time.perf_counter() - began)
    return [taken[2:] for taken in seconds]
