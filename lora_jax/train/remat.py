"""What the backward pass computes anew, where nothing is said: chosen by memory.

To compute a block anew costs up to a third of a step's time, so it is chosen only where
what the blocks would keep does not fit. What a step takes is known from shapes alone
(`footprint`).
"""

from dataclasses import replace
from typing import Any

from lora_jax import devices
from lora_jax.train.config import TrainConfig, step_config
from lora_jax.train.footprint import Moment, fullest
from lora_jax.train.step import moment_bytes

# The part of a device's memory that the formula may fill; allocators fragment it.
USABLE = 0.8


def resolved(
    config: TrainConfig,
    trainable: Any,
    frozen: Any,
    *,
    rows: int,
    length: int,
    memory: int | None,
) -> TrainConfig:
    """Return the configuration with what `auto` means for a model and a device.

    It is the fastest of `nn.blocks.REMATS` with which a step fits; where none fits, it
    is `block`, which takes the least. Without a known memory nothing is computed anew.

    Args:
        config: the training's.
        trainable, frozen: the model, split; arrays or shapes.
        rows: of a micro-batch on one device.
        length: of the longest rows, in tokens.
        memory: of one device, in bytes, if it is known.
    """
    if config.remat != "auto":
        return config
    none = replace(config, remat="none")
    if memory is None:
        return none
    free = USABLE * memory - stored_bytes(trainable, frozen)
    # From the fastest to the one that keeps least.
    for choice in (none, replace(config, remat="products")):
        if estimate(choice, trainable, frozen, rows=rows, length=length) <= free:
            return choice
    return replace(config, remat="block")


def stored_bytes(trainable: Any, frozen: Any) -> int:
    """Return the bytes of all weights, and of the gradient and moments of the trained.

    Of a model that is spread over devices they are those of one device.
    """
    weights = devices.nbytes(trainable) + devices.nbytes(frozen)
    # A gradient is stored as its leaf is; moments may be wider.
    return weights + devices.nbytes(trainable) + moment_bytes(trainable)


def estimate(
    config: TrainConfig, trainable: Any, frozen: Any, *, rows: int, length: int
) -> int:
    """Return the bytes of a step beside `stored_bytes`, at its fullest.

    Arguments are as for `resolved`.
    """
    moment = fullest_moment(config, trainable, frozen, rows=rows, length=length)
    return moment.activations + moment.copies


def fullest_moment(
    config: TrainConfig, trainable: Any, frozen: Any, *, rows: int, length: int
) -> Moment:
    """Return what a step has at its fullest; arguments are as for `resolved`."""
    return fullest(trainable, frozen, step_config(config), rows=rows, length=length)
