"""The texts that a language model writes after prompts: greedy, sampled or by beams.

`generate(model, prompts, Decoding(...), eos_ids=...)` is all that most callers need.
"""

from lora_jax.generation.decoding import Decoding, check
from lora_jax.generation.generate import Generated, generate, prepare
from lora_jax.generation.prompts import check_prompts

__all__ = ["Decoding", "Generated", "check", "check_prompts", "generate", "prepare"]
