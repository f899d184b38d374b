"""What is run: an experiment's values, its schedule, its command line."""

from lora_jax.experiment import presets, sweep
from lora_jax.experiment.config import NO_METHOD, DataConfig, RunConfig
from lora_jax.experiment.experiment import Experiment
from lora_jax.experiment.grid import grid, grid_of_methods
from lora_jax.experiment.measurement import Measurement
from lora_jax.experiment.run import Trained
from lora_jax.experiment.workbench import Workbench, Workbenches

__all__ = [
    "NO_METHOD",
    "DataConfig",
    "Experiment",
    "Measurement",
    "RunConfig",
    "Trained",
    "Workbench",
    "Workbenches",
    "grid",
    "grid_of_methods",
    "presets",
    "sweep",
]
