"""Fields of a config.json that would change what a model computes, and are not read.

A config.json has dozens of fields without influence on the logits: dropout and the
initialization (a run has its own), the cache, dtypes, names, defaults for generation.
These here have one, in transformers or in the code that published models come with. All
that is implemented is the value at which such a field changes nothing; another is
rejected by name. Null is as if the field were absent.
"""

import math
from collections.abc import Mapping
from typing import Any

from lora_jax.models.rope import LARGEST

# What both kinds of models may ask for, and the value that changes nothing.
COMMON: dict[str, Any] = {
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    # Heads that transformers takes out of the layers once they are loaded.
    "pruned_heads": {},
}
ENCODER = {
    **COMMON,
    # Its attention would be causal.
    "is_decoder": False,
    # Relative positions would be other layers.
    "position_embedding_type": "absolute",
}
GPT2 = {
    **COMMON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
LLAMA = {
    **COMMON,
    # Caps on the numbers before a softmax, or on query, key and value.
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "logits_soft_cap": None,
    "clip_qkv": None,
    # Factors, mostly of maximal update parametrization (Granite, Cohere, MiniCPM).
    "logit_scale": 1,
    "logits_scaling": 1,
    "lm_head_multiplier": 1,
    "embedding_multiplier": 1,
    "residual_multiplier": 1,
    "scale_emb": 1,
    "scale_depth": None,
    "dim_model_base": None,
    # Other attention, or other layers.
    "alibi": False,
    "parallel_attn": False,
    "use_parallel_residual": False,
    "use_bidirectional_attention": False,
    "is_causal": True,
    "qk_norm": False,
    "use_qk_norm": False,
    "qk_layernorm": False,
    "attention_chunk_size": None,
    "attn_temperature_tuning": False,
    "num_experts": 0,
    "num_local_experts": 0,
    "n_routed_experts": 0,
    "num_nextn_predict_layers": 0,
    "no_rope_layers": None,
    "no_rope_layer_interval": 0,
    "sliding_window_pattern": None,
    # Rotation of neighbors instead of halves, and other names of its base.
    "rope_interleaved": False,
    "rotary_base": None,
    "rotary_emb_base": None,
    "rope_base": None,
}
# The one method of a quantized checkpoint that is read.
QUANTIZATION = "bitsandbytes"


def neutral_problems(
    config: Mapping[str, Any], neutral: Mapping[str, Any]
) -> list[str]:
    """Return a message for each field that has another value than the neutral one."""
    problems = []
    for name, value in neutral.items():
        actual = config.get(name)
        if actual is None or actual == value:
            continue
        # Neither is a cap of 0 one, nor an empty list one of layers.
        if value is None and not actual:
            continue
        problems.append(f"{name} is {actual!r}, expected {value}")
    return problems


def scale_problems(config: Mapping[str, Any], head_dim: int) -> list[str]:
    """Return a message for each factor of the attention that is not 1/sqrt(head_dim)."""
    # Of sizes that are none nothing follows; they are told elsewhere.
    if not 0 < head_dim < LARGEST:
        return []
    usual = head_dim**-0.5
    neutral = {
        "attention_multiplier": usual,
        "softmax_scale": usual,
        "query_pre_attn_scalar": head_dim,
    }
    problems = []
    for name, value in neutral.items():
        actual = config.get(name)
        if actual is None:
            continue
        # A whole number in JSON may be too large for floating point.
        is_number = type(actual) in (int, float) and abs(actual) < LARGEST
        if not is_number or not math.isclose(actual, value, rel_tol=1e-3):
            problems.append(f"{name} is {actual!r}, expected {value:g}")
    return problems


def check_storage(source: str, config: Mapping[str, Any]) -> None:
    """Raise a ValueError for weights or layers that this library cannot have.

    They are weights quantized by another method than bitsandbytes, and layers that are
    Python code beside the checkpoint.
    """
    problems = []
    for name in ("quantization_config", "compression_config"):
        if config.get(name):
            method = _quantization_method(config[name])
            if method != QUANTIZATION:
                problems.append(
                    f"{name} is of {method!r}, expected {QUANTIZATION} or weights in "
                    "floating point"
                )
    # transformers asks before it runs such code; a standard class may read it too.
    code = config.get("auto_map") or {}
    classes = code if isinstance(code, Mapping) else {}
    if any(str(name).startswith("AutoModel") for name in classes):
        problems.append(
            f"auto_map names layers in Python code ({', '.join(map(str, classes))}), "
            "which is never run; take auto_map out if the layers are those of "
            f"{config.get('model_type')!r} in transformers"
        )
    if problems:
        raise ValueError(f"{source}: config.json: {'; '.join(problems)}")


def _quantization_method(fields: Any) -> Any:
    if not isinstance(fields, Mapping):
        return fields
    # bitsandbytes was the only one when files had no name for it.
    is_old = "load_in_8bit" in fields or "load_in_4bit" in fields
    return fields.get("quant_method", QUANTIZATION if is_old else None)
