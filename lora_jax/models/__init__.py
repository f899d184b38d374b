"""Pretrained models: one family a file (`bert`, `gpt2`, `llama`), and `load` by name.

A name is a directory, a GGUF file, an entry of `ZOO`, or a Hugging Face hub id.
"""

from lora_jax.models.load import load, load_tokenizer
from lora_jax.models.sources import ZOO, source

__all__ = ["ZOO", "load", "load_tokenizer", "source"]
