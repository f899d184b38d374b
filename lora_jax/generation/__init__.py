"""Texts that a language model writes after prompts."""

from lora_jax.generation.decoding import Decoding, check
from lora_jax.generation.generate import Generated, check_prompts, generate, prepared

__all__ = ["Decoding", "Generated", "check", "check_prompts", "generate", "prepared"]
