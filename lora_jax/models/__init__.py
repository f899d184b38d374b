"""Model families, one per file, and the zoo of names."""

from lora_jax.models.load import ZOO, load, source, tokenizer

__all__ = ["ZOO", "load", "source", "tokenizer"]
