"""Metadata of a GGUF file that would change what a model computes, and are not read.

llama.cpp has one list of keys for all architectures; those here belong to layers that
the Llama family does not have. All that is implemented is the value at which such a key
changes nothing: zero, as if it were absent, or the one that is listed.
"""

import math
from typing import Any

# The metadata of a family, without the architecture's name before them.
Facts = dict[str, Any]

_NEUTRAL: Facts = {
    # Attention.
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.output_scale": 1,
    "attention.q_lora_rank": 0,
    "attention.kv_lora_rank": 0,
    "attention.relative_buckets_count": 0,
    "attention.shared_kv_layers": 0,
    "attention.sliding_window_pattern": 0,
    "attention.temperature_length": 0,
    "attention.temperature_scale": 0,
    "attn_logit_softcapping": 0,
    "full_attention_interval": 0,
    # Rotation: of a part or of several axes, and the factor on its cosine and sine.
    "rope.dimension_sections": 0,
    "rope.scaling.alpha": 0,
    "rope.scaling.attn_factor": 1,
    # Scales of the embedding, the residual stream and the logits.
    "embedding_scale": 1,
    "residual_scale": 1,
    "logit_scale": 1,
    "final_logit_softcapping": 0,
    # Other layers, or more of them.
    "decoder_block_count": 0,
    "expert_shared_count": 0,
    "nextn_predict_layers": 0,
    "swin_norm": False,
    "use_parallel_residual": False,
    # A model that gives one vector for a text: -1 is not specified.
    "pooling_type": -1,
}
# Metadata of the file: a model in one part.
_FILE: Facts = {
    "general.type": "model",
    "adapter.type": None,
    "split.count": 1,
    "tokenizer.ggml.add_sep_token": False,
}


def file_problems(metadata: Facts) -> list[str]:
    """Return a line for each sign that the file is no whole model."""
    problems = []
    for name, value in _FILE.items():
        actual = metadata.get(name)
        if actual and actual != value:
            problems.append(f"{name}: expected {value}, got {actual!r}")
    return problems


def key_problems(architecture: str, facts: Facts) -> list[str]:
    """Return a line for each key that has another value than the neutral one."""
    problems = []
    for name, value in _NEUTRAL.items():
        actual = facts.get(name)
        # To llama.cpp zero is absent, but for what is true by default.
        is_absent = actual is None or (value is not True and not actual)
        if is_absent or actual == value:
            continue
        problems.append(f"{architecture}.{name}: expected {value}, got {actual!r}")
    return problems


def head_problems(architecture: str, facts: Facts, head_dim: Any) -> list[str]:
    """Return a line for each key of a head's size that does not fit `head_dim`."""
    problems = []
    value_length = facts.get("attention.value_length")
    if value_length is not None and value_length != head_dim:
        problems.append(
            f"{architecture}.attention.value_length: expected {head_dim} as for keys, "
            f"got {value_length!r}"
        )
    scale = facts.get("attention.scale")
    # Of broken sizes, which are told elsewhere, nothing follows.
    is_size = type(head_dim) is int and 0 < head_dim < 2**31
    if not scale or not is_size:
        return problems
    usual = head_dim**-0.5
    # Numbers of the format have 64 bits.
    is_number = type(scale) in (int, float) and abs(scale) < 2**64
    if not is_number or not math.isclose(scale, usual, rel_tol=1e-3):
        problems.append(
            f"{architecture}.attention.scale: expected {usual:g}, got {scale!r}"
        )
    return problems
