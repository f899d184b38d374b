"""Bytes of weights, gradients and Adam moments, from parameter counts.

LoRA, section 4.2 (Hu et al. 2021, arXiv 2106.09685v2). Activations are not counted
here; `step_memory` has them for the library's encoders.
"""

from typing import NamedTuple

from lora_jax.accounting.architectures import ARCHITECTURES
from lora_jax.accounting.parameters import (
    LoRA,
    total_parameters,
    trainable_parameters,
)


class Precision(NamedTuple):
    """A way to train, in bytes a parameter.

    `weight` is of every parameter as it is stored. A trainable one also has its
    gradient, Adam's two moments, and in some ways a copy that is updated.
    """

    name: str
    weight: int
    gradient: int
    moments: int
    copy: int

    @property
    def trainable(self) -> int:
        """Bytes of a trainable parameter."""
        return self.weight + self.gradient + self.moments + self.copy


# Everything in two bytes.
HALF = Precision("FP16", weight=2, gradient=2, moments=4, copy=0)
# The usual mixed precision (Micikevicius et al. 2018, arXiv 1710.03740).
MIXED = Precision(
    "FP16, moments and a copy FP32", weight=2, gradient=2, moments=8, copy=4
)
_PRECISIONS = (
    # A gradient need not be kept where each layer is updated as soon as it has one.
    Precision("FP16, no gradient kept", weight=2, gradient=0, moments=4, copy=0),
    HALF,
    # QLoRA's 780 GB for 65B parameters are these 12 bytes each.
    Precision("FP16, moments FP32", weight=2, gradient=2, moments=8, copy=0),
    MIXED,
    Precision("FP32", weight=4, gradient=4, moments=8, copy=0),
)
PRECISIONS = {precision.name: precision for precision in _PRECISIONS}
"""The ways to train by name, from the fewest bytes a parameter to the most."""


class StoredBytes(NamedTuple):
    """Bytes in memory while training, and `checkpoint` on disk for one task."""

    weights: int  # with the copy that is updated
    gradients: int
    optimizer: int
    checkpoint: int

    @property
    def total(self) -> int:
        """Bytes in memory."""
        return self.weights + self.gradients + self.optimizer


def stored_bytes(parameters: int, trainable: int, precision: Precision) -> StoredBytes:
    """Return what training stores of a model.

    `parameters` counts all, those of an adapter included; `trainable` of them are
    trained.

    Raises:
        ValueError: more are trainable than there are.
    """
    if not 0 <= trainable <= parameters:
        raise ValueError(
            f"trainable: expected 0 to {parameters:,}, the model's parameters, "
            f"got {trainable:,}"
        )
    # A frozen parameter has its weight and nothing else.
    return StoredBytes(
        weights=parameters * precision.weight + trainable * precision.copy,
        gradients=trainable * precision.gradient,
        optimizer=trainable * precision.moments,
        checkpoint=trainable * precision.weight,
    )


def compare_with_lora(
    architecture: str, targets: str, rank: int, precision: str
) -> dict[str, int]:
    """Return the bytes of full fine-tuning and of LoRA, and the parameters trained.

    Keys are `full/total`, `lora/weights`, `lora/parameters` and so on.
    `sequence/inputs_of_blocks` is all that gradient checkpointing keeps of activations:
    the inputs of all blocks for one sequence of the greatest length, in FP16.

    Raises:
        ValueError: no such target, or a rank that is out of range.
        KeyError: no such architecture or precision.
    """
    sizes = ARCHITECTURES[architecture]
    # Weights of the pretrained model, and of LoRA beside them.
    total = total_parameters(sizes)
    adapter = trainable_parameters(LoRA(targets, rank), sizes)
    # FP16.
    inputs = 2 * sizes.layers * sizes.max_positions * sizes.width
    metrics = {"sequence/inputs_of_blocks": inputs}
    # All that are there, and those that are trained.
    parameters = {"full": (total, total), "lora": (total + adapter, adapter)}
    for method, (present, trainable) in parameters.items():
        stored = stored_bytes(present, trainable, PRECISIONS[precision])
        for part, size in stored._asdict().items():
            metrics[f"{method}/{part}"] = size
        metrics[f"{method}/total"] = stored.total
        metrics[f"{method}/parameters"] = trainable
    return metrics
