"""Low-rank adaptation in JAX: the experiments of the LoRA and QLoRA papers.

A model is a tree of layers. An adaptation method replaces some of its layers and names
the leaves that are trained. Everything else works on these two values.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# For editors and type checkers, which do not run `__getattr__`.
if TYPE_CHECKING:
    from lora_jax import (
        accounting,
        analysis,
        checkpoints,
        data,
        devices,
        download,
        experiment,
        generation,
        methods,
        metrics,
        models,
        nn,
        paper,
        quant,
        results,
        train,
        tree,
    )

# The public vocabulary. Packages are imported when they are first used: the rows and
# the published tables need no jax.
__all__ = [
    "accounting",
    "analysis",
    "checkpoints",
    "data",
    "devices",
    "download",
    "experiment",
    "generation",
    "methods",
    "metrics",
    "models",
    "nn",
    "paper",
    "quant",
    "results",
    "train",
    "tree",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"lora_jax.{name}")
    raise AttributeError(f"module 'lora_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
