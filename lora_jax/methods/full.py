"""Full fine-tuning: everything is trained and nothing is added, the papers' baseline."""

from lora_jax.methods.base import Method


def full() -> Method:
    """Return the method that trains every leaf of the model."""

    def adapt(key, model):
        return model

    # Every path has a character that this matches.
    return Method("full", adapt, trainable=r".")
