"""What an adaptation costs: parameters, bytes and seconds."""

from lora_jax.accounting.parameters import (
    ARCHITECTURES,
    Adapter,
    Architecture,
    BitFit,
    Both,
    FineTune,
    LoRA,
    Method,
    Prefix,
    rank_for,
    total_parameters,
    trainable_parameters,
    tree_parameters,
)

__all__ = [
    "ARCHITECTURES",
    "Adapter",
    "Architecture",
    "BitFit",
    "Both",
    "FineTune",
    "LoRA",
    "Method",
    "Prefix",
    "rank_for",
    "total_parameters",
    "trainable_parameters",
    "tree_parameters",
]
