"""Training: the settings, one jitted step, the loop over epochs, and the two losses."""

from lora_jax.train.config import TrainConfig
from lora_jax.train.fit import (
    LOWER,
    Diverged,
    Fit,
    Progress,
    Static,
    check,
    decayed,
    fit,
    gradient,
    objective,
    optimizer,
    rate,
    static,
    train_step,
)

__all__ = [
    "LOWER",
    "Diverged",
    "Fit",
    "Progress",
    "Static",
    "TrainConfig",
    "check",
    "decayed",
    "fit",
    "gradient",
    "objective",
    "optimizer",
    "rate",
    "static",
    "train_step",
]
