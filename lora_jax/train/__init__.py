"""Training: the configuration, one compiled step, the loop over epochs, and two losses.

The losses are `classification.loss` and `language_modeling.loss`. They are handed to
`fit` as part of its `Objective`, so that another loss is an ordinary function.
"""

from lora_jax.train.cells import Cell
from lora_jax.train.config import (
    StepConfig,
    TrainConfig,
    check,
    learning_rate,
    placement,
    step_config,
)
from lora_jax.train.fit import Diverged, Fit, Objective, Progress, fit
from lora_jax.train.fit_many import fit_many
from lora_jax.train.sharding import Placement
from lora_jax.train.step import (
    Loss,
    decay_mask,
    gradient,
    moment_bytes,
    optimizer,
    train_step,
)

__all__ = [
    "Cell",
    "Diverged",
    "Fit",
    "Loss",
    "Objective",
    "Placement",
    "Progress",
    "StepConfig",
    "TrainConfig",
    "check",
    "decay_mask",
    "fit",
    "fit_many",
    "gradient",
    "learning_rate",
    "moment_bytes",
    "optimizer",
    "placement",
    "step_config",
    "train_step",
]
