"""How long a training step takes, and an estimate of an entire training.

Steps are compiled first and then timed in turn with others, so that a machine that
slows down favors none.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import data, devices, methods, train, tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.train import classification, language_modeling

# Runs of each step before those that are timed.
WARM_UP = 2

# What padding, attention, norms and compilation add to the products; bfloat16 products
# take some of it away. Measured on two CPU cores.
OVERHEAD = {"float32": 1.5, "bfloat16": 1.0}


class Step(NamedTuple):
    """A training step that is ready to run.

    `run()` does one step and waits for it; `sizes` are bytes by name.
    """

    run: Callable[[], None]
    sizes: dict[str, float]


def compile_step(
    model: Any, method: methods.Method, *, batch: int, length: int, compute_dtype: str
) -> Step:
    """Compile the library's own step of an adapted model, for random tokens.

    It runs on as many devices as there are. Its sizes are those of `optimizer` and
    `checkpoint`, and of one device, as XLA says, `temporary` and `peak` (arguments,
    results and temporaries).
    """
    adapted = method.adapt(jax.random.key(0), model)
    settings: Any = {"compute_dtype": compute_dtype}
    config = train.step_config(train.TrainConfig(**settings))
    trainable, frozen = tree.split(adapted, methods.mask(adapted, method))
    optimizer_state = train.optimizer(config).init(trainable)
    rows = random_batch(batch, length, adapted.config.vocabulary)

    mesh = devices.mesh(batch)
    # The step takes the place of its state, and the model is the caller's: a copy.
    state = jax.tree.map(jnp.copy, trainable), optimizer_state
    state = list(devices.replicate(state, mesh))
    frozen = devices.replicate(precision.cast_kernels(frozen, compute_dtype), mesh)
    rate_and_key = devices.replicate((jnp.float32(1e-3), jax.random.key(1)), mesh)
    inputs = frozen, devices.shard_rows(rows, mesh), *rate_and_key
    lowered = train.train_step.lower(
        *state, *inputs, loss=_loss_of(adapted), config=config
    )
    compiled = lowered.compile()

    def run() -> None:
        *state[:], loss = compiled(*state, *inputs)
        loss.block_until_ready()

    sizes = {
        "optimizer": tree.nbytes(optimizer_state),
        "checkpoint": tree.nbytes(trainable),
        **_memory_of(compiled),
    }
    return Step(run, sizes)


def _loss_of(model: Any) -> train.Loss:
    if isinstance(model, Decoder):
        return language_modeling.loss
    return classification.loss


def _memory_of(compiled: Any) -> dict[str, float]:
    analysis = compiled.memory_analysis()
    peak = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    return {"temporary": analysis.temp_size_in_bytes, "peak": peak}


def random_batch(rows: int, length: int, vocabulary: int) -> data.Batch:
    """Return rows of random tokens, none of them padding, of two classes."""
    rng = np.random.default_rng(0)
    shape = rows, length
    return data.Batch(
        # The first tokens of a vocabulary are special.
        tokens=rng.integers(5, vocabulary, shape, dtype=np.int32),
        segments=np.zeros(shape, np.int32),
        length=np.full(rows, length, np.int32),
        label=np.arange(rows, dtype=np.int32) % 2,
        weight=np.ones(rows, np.float32),
        index=np.arange(rows, dtype=np.int32),
    )


def time_in_turn(steps: Sequence[Step], times: int) -> list[list[float]]:
    """Return the seconds of each run of each step.

    The steps run one after the other, `times` times; two warm-up rounds come first and
    are discarded.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(WARM_UP + times):
        for step, durations in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step.run()
            durations.append(time.perf_counter() - start)
    return [durations[WARM_UP:] for durations in seconds]


def estimate_seconds(
    model: Any, tokens: Mapping[str, int], epochs: int, compute_dtype: str
) -> float:
    """Return roughly how many seconds a training takes on this machine.

    It trains on the tokens of `train`, chooses the epoch on `validation` and scores the
    other splits once. A token costs 4 operations for each matrix element where it is
    trained on and 2 where it is evaluated, at the speed of a float32 product that is
    measured here.
    """
    elements = 0
    for path, leaf in tree.leaves(model.blocks).items():
        if path.endswith("kernel"):
            elements += leaf.size
    operations_by_split = {"train": 4 * epochs, "validation": 2 * epochs}
    operations = 0
    for split, count in tokens.items():
        operations += elements * operations_by_split.get(split, 2) * count
    return OVERHEAD[compute_dtype] * operations / product_speed()


@lru_cache(maxsize=1)
def product_speed() -> float:
    """Return the operations a second of a float32 product of the usual size."""
    rows, width = 2048, 768
    x, w = jnp.ones((rows, width)), jnp.ones((width, width))
    product = jax.jit(jnp.matmul)
    product(x, w).block_until_ready()
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        product(x, w).block_until_ready()
        durations.append(time.perf_counter() - start)
    # The shortest: whatever else runs on the machine only adds.
    return 2 * rows * width * width / min(durations)
