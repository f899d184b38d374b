"""How a run is trained: the settings, their check, and the learning rate of each step."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lora_jax import devices
from lora_jax.nn.blocks import REMATS


# The docstring below each field is the help text of its command-line flag.
@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are a laptop's; the papers' are in the presets."""

    learning_rate: float = 1e-3
    """Highest learning rate. It rises linearly during the warm-up, then falls linearly
    to 0."""
    epochs: int = 3
    """Passes over the training rows. The epoch with the best validation score is
    kept."""
    batch: int = 32
    """Rows in a step."""
    accumulate: int = 1
    """Micro-batches in a step, to save memory. Divides the batch."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices. Biases and norms are not decayed."""
    warmup: float = 0.06
    """Share of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Global norm that the trainable gradient is clipped to. 0 does not clip."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes."""
    hidden_dropout: float = 0.0
    """Dropout at the pretrained model's own dropout places."""
    offload: bool = False
    """Keep Adam's moments in host memory between updates, on a GPU or TPU. QLoRA's
    paged optimizer is for the same."""
    remat: Literal["auto", "none", "block", "products"] = "auto"
    """What the backward pass computes anew instead of keeping it: nothing, all of a
    block but its input, or all but the results of linear layers. auto is the fastest
    that fits the device's memory."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Dtype of matrix products. auto is bfloat16 where the machine has such products,
    else float32."""


class StepConfig(NamedTuple):
    """The part of a `TrainConfig` that is compiled into the step.

    The rest of it (learning rate, warm-up, epochs) is data to the step or belongs to
    the loop, so that it can vary without another compilation. The defaults are those of
    the plainest step, which neither decays nor clips.
    """

    accumulate: int = 1
    weight_decay: float = 0.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    hidden_dropout: float = 0.0
    compute_dtype: str = "float32"
    offload: bool = False
    remat: str = "none"


def step_config(config: TrainConfig) -> StepConfig:
    """Return the part of the configuration that is compiled into the step.

    A `remat` that is still "auto" is none: nothing is known of the model here (see
    `train.remat.resolved`).
    """
    return StepConfig(
        accumulate=config.accumulate,
        weight_decay=config.weight_decay,
        clip=config.clip,
        label_smoothing=config.label_smoothing,
        hidden_dropout=config.hidden_dropout,
        compute_dtype=config.compute_dtype,
        offload=config.offload,
        remat="none" if config.remat == "auto" else config.remat,
    )


def check(config: TrainConfig) -> None:
    """Check the range of every setting.

    The compute dtype "auto" has to be resolved before (see `nn.precision.fast_dtype`).

    Raises:
        ValueError: one or more settings are outside their range; lists them all.
    """
    # Collected, so that one error lists them all.
    problems = []

    def expect(holds: bool, name: str, expected: str) -> None:
        if not holds:
            value = getattr(config, name)
            problems.append(f"{name}: expected {expected}, got {value}")

    expect(config.learning_rate > 0, "learning_rate", "> 0")
    expect(config.epochs >= 1, "epochs", ">= 1")
    expect(config.batch >= 1, "batch", ">= 1")
    # In this order, as there is no remainder of a division by zero.
    divides = config.accumulate >= 1 and config.batch % config.accumulate == 0
    expect(divides, "accumulate", ">= 1 and a divisor of batch")
    expect(config.weight_decay >= 0, "weight_decay", ">= 0")
    expect(0 <= config.warmup < 1, "warmup", "a share in [0, 1)")
    expect(config.clip >= 0, "clip", ">= 0 (0: none)")
    expect(0 <= config.label_smoothing < 1, "label_smoothing", "in [0, 1)")
    expect(0 <= config.hidden_dropout < 1, "hidden_dropout", "in [0, 1)")
    # "auto" is for whoever makes the configuration to resolve.
    is_concrete = config.compute_dtype in ("float32", "bfloat16")
    expect(is_concrete, "compute_dtype", "float32 or bfloat16")
    remats = ("auto", *REMATS)
    expect(config.remat in remats, "remat", f"one of {', '.join(remats)}")
    # Only some backends have memory of the host that a device can read.
    memory_kinds = devices.memory_kinds()
    can_offload = devices.HOST in memory_kinds
    expect(
        can_offload or not config.offload,
        "offload",
        f"a backend that can also keep arrays in {devices.HOST} memory, as GPUs and "
        f"TPUs can (this one: {', '.join(memory_kinds)})",
    )
    if problems:
        raise ValueError("; ".join(problems))


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, of those numbered 0 to `steps` - 1.

    It rises linearly during the warm-up, beginning above zero, and then falls linearly.
    """
    warmup_steps = math.ceil(config.warmup * steps)
    # Each is 1 where the warm-up ends, and the smaller one counts.
    rise = (step + 1) / max(1, warmup_steps)
    fall = (steps - step) / max(1, steps - warmup_steps)
    return config.learning_rate * min(rise, fall)
