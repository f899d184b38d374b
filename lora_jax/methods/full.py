"""Full fine-tuning: everything learns, nothing is added. The papers' baseline."""

from lora_jax.methods.base import Method


def full() -> Method:
    """Every leaf of the model learns."""
    return Method("full", lambda key, model: model, r".")
