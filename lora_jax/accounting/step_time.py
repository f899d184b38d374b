"""How long a training step takes, and an estimate of an entire training.

Steps are compiled first and then timed in turn with others, so that a machine that
slows down favors none.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import data, devices, methods, train, tree
from lora_jax.accounting.compiled_step import loss_of
from lora_jax.nn import precision

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
    model: Any,
    method: methods.Method,
    *,
    batch: int,
    length: int,
    compute_dtype: str,
    remat: str = "auto",
) -> Step:
    """Compile the library's own step of an adapted model, for random tokens.

    It runs on as many devices as there are. Where `remat` is auto, nothing is computed
    anew. Its sizes are those of `optimizer` and
    `checkpoint`, and of one device, as XLA says, `temporary` and `peak` (arguments,
    results and temporaries).
    """
    adapted = method.adapt(jax.random.key(0), model)
    settings: Any = {"compute_dtype": compute_dtype, "remat": remat}
    train_config = train.TrainConfig(**settings)
    config = train.step_config(train_config)
    mask = methods.mask(adapted, method)
    trainable, frozen = tree.split(adapted, mask)
    frozen = precision.cast_kernels(frozen, compute_dtype)
    optimizer_state = train.optimizer(config).init(trainable)

    mesh = devices.mesh(batch)
    vocabulary = adapted.config.vocabulary
    rows = random_batch(batch, length, vocabulary)
    inputs = _place_inputs(frozen, rows, mesh)
    # A new state takes the memory of the old one, and the model is the caller's.
    copied = jax.tree.map(jnp.copy, trainable)
    state = devices.replicate((copied, optimizer_state), mesh)
    loss = loss_of(adapted)
    lowered = train.train_step.lower(*state, *inputs, loss=loss, config=config)
    compiled = lowered.compile()

    # The state of one run is where the next one starts.
    def run() -> None:
        nonlocal state
        *state, mean_loss = compiled(*state, *inputs)
        mean_loss.block_until_ready()

    sizes = {
        "optimizer": tree.nbytes(optimizer_state),
        "checkpoint": tree.nbytes(trainable),
        **_memory_of(compiled),
    }
    return Step(run, sizes)


def _place_inputs(frozen: Any, rows: data.Batch, mesh: Any) -> tuple[Any, ...]:
    """Spread the rows over the devices, and copy all else to each."""
    frozen = devices.replicate(frozen, mesh)
    rows = devices.shard_rows(rows, mesh)
    learning_rate = jnp.float32(1e-3)
    key = jax.random.key(1)
    learning_rate, key = devices.replicate((learning_rate, key), mesh)
    return frozen, rows, learning_rate, key


def _memory_of(compiled: Any) -> dict[str, float]:
    analysis = compiled.memory_analysis()
    temporary = analysis.temp_size_in_bytes
    # Results that take an argument's place count once.
    peak = analysis.argument_size_in_bytes
    peak += analysis.output_size_in_bytes
    peak -= analysis.alias_size_in_bytes
    peak += temporary
    return {"temporary": temporary, "peak": peak}


def random_batch(rows: int, length: int, vocabulary: int) -> data.Batch:
    """Return rows of random tokens, none of them padding, of two classes."""
    rng = np.random.default_rng(0)
    shape = rows, length  # [B, T]
    # The first tokens of a vocabulary are special.
    tokens = rng.integers(5, vocabulary, shape, dtype=np.int32)
    index = np.arange(rows, dtype=np.int32)
    return data.Batch(
        tokens=tokens,
        segments=np.zeros(shape, np.int32),
        length=np.full(rows, length, np.int32),
        label=index % 2,
        weight=np.ones(rows, np.float32),
        index=index,
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
            end = time.perf_counter()
            durations.append(end - start)
    return [durations[WARM_UP:] for durations in seconds]


def step_metrics(step: Step, seconds: Sequence[float], tokens: int) -> dict[str, float]:
    """Return a step's median time, its tokens a second, and its sizes in MB.

    `seconds` are those of all runs of the step, and `tokens` are those of its batch. An
    MB is 10^6 bytes.
    """
    median = statistics.median(seconds)
    metrics = {
        "step/seconds": median,
        "step/tokens_per_second": tokens / median,
    }
    for name, size in step.sizes.items():
        metrics[f"memory/{name}_mb"] = size / 1e6
    return metrics


def estimate_operations(
    model: Any, tokens: Mapping[str, int], epochs: int, compute_dtype: str
) -> float:
    """Return roughly how many operations of a float32 product a training is worth.

    Divided by `product_speed` they are seconds on this machine. A training trains on the
    tokens of `train`, chooses the epoch on `validation` and scores the other splits once.
    A token costs 4 operations for each matrix element where it is trained on and 2 where
    it is evaluated.
    """
    elements = 0
    for path, leaf in tree.leaves(model.blocks).items():
        # Biases and norms are negligible.
        if path.endswith("kernel"):
            elements += leaf.size
    # A token is trained on in every epoch, and validation is evaluated after each.
    per_element = {
        "train": 4 * epochs,
        "validation": 2 * epochs,
    }
    operations = 0
    for split, count in tokens.items():
        operations += per_element.get(split, 2) * elements * count
    return OVERHEAD[precision.product_dtype(compute_dtype)] * operations


@lru_cache(maxsize=1)
def product_speed() -> float:
    """Return the operations a second of a float32 product of the usual size."""
    rows, width = 2048, 768
    x = jnp.ones((rows, width))
    w = jnp.ones((width, width))
    product = jax.jit(jnp.matmul)
    # Compiled before the clock runs.
    product(x, w).block_until_ready()
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        product(x, w).block_until_ready()
        end = time.perf_counter()
        durations.append(end - start)
    # A multiplication and an addition.
    operations = 2 * rows * width * width
    # The shortest: whatever else runs on the machine only adds.
    return operations / min(durations)
