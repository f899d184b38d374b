"""How a run is trained: the settings, their check, and the learning rate of each step."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lora_jax import devices
from lora_jax.nn import precision
from lora_jax.nn.attend import ATTENTIONS
from lora_jax.nn.blocks import REMATS
from lora_jax.nn.engine import Engine
from lora_jax.train import sharding


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
    pack: int = 0
    """Tokens of a row that several short texts share, which do not see each other. 0
    pads each text to a row. A step is of the same texts either way."""
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
    attention: Literal["auto", "plain", "chunked", "cudnn"] = "auto"
    """How attention is computed. plain keeps the scores of all tokens by all tokens,
    chunked computes those of a few tokens at a time, cudnn is NVIDIA's kernel, for
    bfloat16 activations. auto chooses by backend, length and dtype."""
    mesh: str = "auto"
    """Devices along cells (trainings of a population), data (rows of a batch) and model
    (matrices of the base), as data=4,model=2. auto has as many along data as share the
    rows evenly."""
    shard_base: bool = False
    """Cut the frozen base over the devices along data too, and gather each layer when
    it is computed. Without, each of them has all of it."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "bfloat16_activations"] = (
        "float32"
    )
    """Dtype of matrix products. With bfloat16_activations what is between them and is
    kept for the backward pass is bfloat16 too. auto is that on a GPU or TPU, bfloat16
    where a processor has such products, else float32."""


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
    attention: str = "auto"
    # The backend that the step is compiled for, if it is not the default one: cpu, gpu
    # or tpu. It is for programs that are compiled and not run.
    backend: str = ""

    @property
    def engine(self) -> Engine:
        """How the model is computed."""
        return Engine(
            remat=self.remat,
            activations=precision.activation_dtype(self.compute_dtype),
            attention=self.attention,
            backend=self.backend,
        )


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
        attention=config.attention,
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
    expect(config.pack >= 0, "pack", ">= 0 (0: a row for each text)")
    expect(config.weight_decay >= 0, "weight_decay", ">= 0")
    expect(0 <= config.warmup < 1, "warmup", "a share in [0, 1)")
    expect(config.clip >= 0, "clip", ">= 0 (0: none)")
    expect(0 <= config.label_smoothing < 1, "label_smoothing", "in [0, 1)")
    expect(0 <= config.hidden_dropout < 1, "hidden_dropout", "in [0, 1)")
    # "auto" is for whoever makes the configuration to resolve.
    names = precision.COMPUTE_DTYPES
    is_concrete = config.compute_dtype in names
    expect(is_concrete, "compute_dtype", f"one of {', '.join(names)}")
    remats = ("auto", *REMATS)
    expect(config.remat in remats, "remat", f"one of {', '.join(remats)}")
    is_usable, expected = _attention_bound(config)
    expect(is_usable, "attention", expected)
    # Only some backends have memory of the host that a device can read.
    memory_kinds = devices.memory_kinds()
    can_offload = devices.HOST in memory_kinds
    expect(
        can_offload or not config.offload,
        "offload",
        f"a backend that can also keep arrays in {devices.HOST} memory, as GPUs and "
        f"TPUs can (this one: {', '.join(memory_kinds)})",
    )
    # Its rows are known where the other settings are sound.
    if divides:
        problems += _mesh_problems(config)
    if problems:
        raise ValueError("; ".join(problems))


def _mesh_problems(config: TrainConfig) -> list[str]:
    """Return what is wrong with the mesh for this process's devices."""
    try:
        sharding.check_mesh(config.mesh, config.batch // config.accumulate)
    except ValueError as error:
        return [str(error)]
    return []


def _attention_bound(config: TrainConfig) -> tuple[bool, str]:
    """Return whether this process can compute attention so, and what is expected."""
    if config.attention != "cudnn":
        return config.attention in ATTENTIONS, f"one of {', '.join(ATTENTIONS)}"
    # It neither rounds nor drops weights itself: something else would be computed.
    is_usable = (
        Engine().target == "gpu"
        and config.compute_dtype == "bfloat16_activations"
        and config.hidden_dropout == 0
    )
    return is_usable, (
        "auto, plain or chunked, as cudnn is for a GPU, for bfloat16_activations and "
        "for no hidden_dropout"
    )


def placement(config: TrainConfig) -> sharding.Placement:
    """Return where the arrays of a training are.

    Raises:
        ValueError: the mesh does not fit the devices or the batch.
    """
    rows = config.batch // config.accumulate
    return sharding.placement(config.mesh, rows, shard_base=config.shard_base)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, of those numbered 0 to `steps` - 1.

    It rises linearly during the warm-up, beginning above zero, and then falls linearly.
    """
    warmup_steps = math.ceil(config.warmup * steps)
    # Each is 1 where the warm-up ends, and the smaller one counts.
    rise = (step + 1) / max(1, warmup_steps)
    fall = (steps - step) / max(1, steps - warmup_steps)
    return config.learning_rate * min(rise, fall)
