"""GGUF files (llama.cpp): the file itself, and the Llama family in them.

`read` gives a `File`. `hf_config`, `hf_tensors` and `build_tokenizer` show one of the
Llama family as Hugging Face would publish it: its config.json, its weights under their
usual names, its tokenizer.
"""

from lora_jax.checkpoints.gguf.file import File, read, with_hf_names
from lora_jax.checkpoints.gguf.llama import hf_config, hf_tensors
from lora_jax.checkpoints.gguf.tokenizer import build_tokenizer

__all__ = [
    "File",
    "build_tokenizer",
    "hf_config",
    "hf_tensors",
    "read",
    "with_hf_names",
]
