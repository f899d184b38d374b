"""The memory of an encoder's training step, which is chosen by names and numbers.

`memory` has it by formula (`step_memory`) and as XLA says of the compiled step
(`compiled_step`). Every leaf is a shape: no step is run. The library's encoders are
known by their shapes alone; another model is read to learn its shapes.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from lora_jax import methods, models
from lora_jax.accounting import compiled_step, step_memory
from lora_jax.accounting.architectures import ARCHITECTURES


class EncoderStep(NamedTuple):
    """A training step. BitFit and full fine-tuning have no targets, and rank 0."""

    model: str  # one of `ARCHITECTURES`, a directory, or a hub id
    method: str
    targets: str
    rank: int
    compute: str  # dtype of the products
    batch: int  # rows
    length: int  # tokens in each row


@lru_cache(maxsize=1)
def encoder(name: str) -> Any:
    """Return the named model, every leaf a shape.

    Raises:
        ValueError: it is an architecture of another family than BERT's.
        OSError: there is no such model.
    """
    if name in ARCHITECTURES:
        return step_memory.abstract_encoder(ARCHITECTURES[name])
    loaded = models.load(name)[0]
    # The arrays themselves are not kept.
    return jax.eval_shape(lambda: loaded)


def shapes(step: EncoderStep) -> tuple[Any, Any]:
    """Return the trainable and the frozen leaves of a step, as shapes.

    Raises:
        ValueError: a target matches no layer, a rank is out of range, the step has no
            rows, or a row has more tokens than the model has positions.
    """
    options = {"targets": step.targets, "rank": step.rank}
    method = methods.make(step.method, **options)
    plain = encoder(step.model)
    # RoBERTa's first positions are never a token's.
    longest = plain.config.max_positions - plain.config.offset
    is_possible = step.batch >= 1 and 1 <= step.length <= longest
    if not is_possible:
        raise ValueError(
            f"expected at least 1 row of 1 to {longest} tokens, {step.model}'s "
            f"positions; got {step.batch} of {step.length}"
        )
    return step_memory.split_shapes(plain, method, step.compute)


def check(steps: Iterable[EncoderStep]) -> None:
    """Raise one ValueError with everything that is wrong with the steps."""
    problems: dict[str, None] = {}  # in order, each once
    for step in steps:
        try:
            shapes(step)
        except ValueError as error:
            problems[str(error)] = None
    if problems:
        raise ValueError("; ".join(problems))


def memory(step: EncoderStep) -> dict[str, int]:
    """Return the bytes of a step: `predicted/weights`, `compiled/total` and so on.

    The predicted parts are those of `StepMemory`. Their `total` is at the fullest
    moment; `temporary` is the total without weights and optimizer, the arguments of
    the step. Compiling takes seconds.

    Raises:
        ValueError: as `shapes`; or the backend does not say what a step takes.
    """
    trainable, frozen = shapes(step)
    sizes: dict[str, Any] = {
        "batch": step.batch,
        "length": step.length,
        "compute_dtype": step.compute,
    }
    predicted = step_memory.predict_memory(trainable, frozen, **sizes)
    compiled = compiled_step.compiled_bytes(trainable, frozen, **sizes)
    arguments = predicted.weights + predicted.optimizer
    parts = predicted._asdict()
    parts["temporary"] = predicted.total - arguments
    parts["total"] = predicted.total
    # One flat table, as a row has it.
    metrics = {}
    for name, size in parts.items():
        metrics[f"predicted/{name}"] = size
    for name, size in compiled.items():
        metrics[f"compiled/{name}"] = size
    return metrics


def fullest_parts(metrics: Mapping[str, float]) -> dict[str, int]:
    """Return the parts at the fullest moment, in bytes, from what `memory` returns."""
    sizes = {}
    for name in step_memory.StepMemory._fields:
        # A row may have whole numbers as floats; older ones lack the update, which has
        # the gradient twice.
        size = metrics.get(f"predicted/{name}", 2 * metrics["predicted/gradients"])
        sizes[name] = int(size)
    return step_memory.StepMemory(**sizes).fullest
