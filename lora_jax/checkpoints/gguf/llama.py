"""A GGUF file of the Llama family as Hugging Face would publish it.

That is the fields of a config.json, and tensors by Hugging Face's names. llama.cpp
rotates neighboring numbers of a head where Hugging Face rotates those of its two
halves, so its converter permutes the rows of query and key; here they are put back.
What the metadata mean: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import re
from functools import partial
from typing import Any

import numpy as np

from lora_jax import quant
from lora_jax.checkpoints.gguf import neutral, scaling
from lora_jax.checkpoints.gguf.factors import FACTORS, read_factors
from lora_jax.checkpoints.gguf.file import File, with_hf_names
from lora_jax.checkpoints.placement import Rule
from lora_jax.checkpoints.tensor import Tensor

ARCHITECTURES = ("llama", "qwen2")
# config.json -> metadata, after the architecture's name.
_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "rope.dimension_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "max_position_embeddings": "context_length",
}
_MODULES = "|".join(
    [
        "input_layernorm",
        "post_attention_layernorm",
        r"self_attn\.[qkvo]_proj",
        r"mlp\.(gate|up|down)_proj",
    ]
)
# All names of the family; the rule says nothing of where its tensors go in a model.
_RULE = Rule(
    rf"(model\.(embed_tokens|norm|layers\.\d+\.({_MODULES}))|lm_head)\.(weight|bias)",
    path="",
)


def hf_config(file: File) -> dict[str, Any]:
    """Return the fields of Hugging Face's config.json.

    Where the file has what each rotary frequency is divided by, there is a field
    `rope_factors` too.

    Raises:
        ValueError: another architecture, or a mixture of experts; fields that are
            missing or no positive number, or that ask for what the family does not
            have; sizes of the vocabulary, or of a head, that differ. All of them are
            named.
    """
    architecture = _architecture(file)
    facts = {}
    for name, value in file.metadata.items():
        facts[name.removeprefix(f"{architecture}.")] = value
    fields = _read_fields(facts)
    sizes = _vocabulary_sizes(file, facts)
    factors = read_factors(file)

    # All problems before anything is made of the fields.
    problems = _field_problems(architecture, fields)
    problems += _size_problems(architecture, facts, fields, sizes, factors)
    problems += neutral.file_problems(file.metadata)
    problems += neutral.key_problems(architecture, facts)
    problems += scaling.factor_problems(architecture, facts)
    if problems:
        text = "\n  ".join(problems)
        raise ValueError(
            f"this GGUF file does not describe a model of the {architecture} family:"
            f"\n  {text}"
        )

    fields |= scaling.rope_scaling(facts, factors)
    fields["model_type"] = architecture
    # They are all the same by now.
    fields["vocab_size"] = next(iter(sizes.values()))
    return fields | _other_fields(file, facts)


def hf_tensors(file: File) -> dict[str, Tensor]:
    """Return the tensors by Hugging Face's names, rows of query and key in its order.

    They may be quantized, and are read when asked for.

    Raises:
        ValueError: what `hf_config` raises, or the rows of query or key are no pairs
            for each head.
    """
    config = hf_config(file)
    tensors = with_hf_names(file, [_RULE])
    # To Hugging Face these are no tensor but a setting.
    tensors.pop(FACTORS, None)
    # llama.cpp rotates Qwen's heads by halves, as Hugging Face does.
    if config["model_type"] != "llama":
        return tensors

    heads_by_name = _permuted(tensors, config)
    wrong = []
    for name, heads in heads_by_name.items():
        shape = tensors[name].shape
        if shape[0] % (2 * heads):
            wrong.append(f"{name} {shape} with {heads}")
    if wrong:
        raise ValueError(
            f"expected pairs of rows for each head, got {', '.join(wrong)}"
        )
    for name, heads in heads_by_name.items():
        tensors[name] = _unpermuted(tensors[name], heads)
    return tensors


def _architecture(file: File) -> str:
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        expected = ", ".join(ARCHITECTURES)
        raise ValueError(
            f"general.architecture: expected one of {expected}, got {architecture!r}"
        )
    return architecture


def _read_fields(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are in the metadata, or have a default there."""
    defaults = {
        # One head of keys and values for each of the queries.
        "num_key_value_heads": facts.get("attention.head_count"),
        "head_dim": facts.get("attention.key_length"),
        "rope_theta": 10_000.0,
    }
    fields = {}
    for field, name in _FIELDS.items():
        fields[field] = facts.get(name, defaults.get(field))
    return fields


def _other_fields(file: File, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are not of the architecture's metadata."""
    window = {}
    # Whatever llama.cpp makes of it: no text is longer than the window.
    if facts.get("attention.sliding_window"):
        window = {
            "sliding_window": facts["attention.sliding_window"],
            "use_sliding_window": True,
            "max_window_layers": 0,
        }
    return window | {
        # All of the family have SwiGLU.
        "hidden_act": "silu",
        # Biases and heads have no metadata: their tensors are in the file or not.
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_ids(facts),
        "pad_token_id": facts.get("tokenizer.ggml.padding_token_id"),
    }


def _end_ids(facts: dict[str, Any]) -> Any:
    """Return the tokens that end a text, a turn or a message; one is no list."""
    ids = []
    for name in ("eos", "eot", "eom"):
        token_id = facts.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is not None and token_id not in ids:
            ids.append(token_id)
    if len(ids) > 1:
        return ids
    return ids[0] if ids else None


def _vocabulary_sizes(file: File, facts: dict[str, Any]) -> dict[str, int]:
    """Return the size of the vocabulary by each thing in the file that has one."""
    sizes = {}
    if facts.get("vocab_size") is not None:
        sizes["vocab_size"] = facts["vocab_size"]
    tokens = facts.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list):
        sizes["tokens"] = len(tokens)
    for name in ("token_embd.weight", "output.weight"):
        if name in file.tensors:
            sizes[f"rows of {name}"] = file.tensors[name].shape[0]
    return sizes


def _field_problems(architecture: str, fields: dict[str, Any]) -> list[str]:
    problems = []
    for field, value in fields.items():
        # Without it a head is a share of the width, as everywhere.
        if field == "head_dim" and value is None:
            continue
        # `isinstance` would take True, which is an int.
        if type(value) not in (int, float) or not value > 0:
            name = f"{architecture}.{_FIELDS[field]}"
            problems.append(f"{name}: expected a positive number, got {value!r}")
    return problems


def _size_problems(
    architecture: str,
    facts: dict[str, Any],
    fields: dict[str, Any],
    sizes: dict[str, int],
    factors: list[float],
) -> list[str]:
    """Return a line for each size that does not fit another."""
    problems = []
    if len(set(sizes.values())) != 1:
        labels = [f"{size} {name}" for name, size in sizes.items()]
        actual = ", ".join(labels) or "none"
        problems.append(f"expected one size of the vocabulary, got {actual}")

    # All numbers of a head are rotated, in pairs.
    share = _share_of_width(fields)
    head_dim = fields["head_dim"] or share
    key_length = facts.get("attention.key_length", share)
    problems += neutral.head_problems(architecture, facts, key_length)
    if key_length != head_dim:
        problems.append(
            f"{architecture}.rope.dimension_count: expected attention.key_length, "
            f"which is {key_length}, got {head_dim}"
        )
    if factors and head_dim and 2 * len(factors) != head_dim:
        problems.append(
            f"{FACTORS}: expected one for each pair of {head_dim} numbers of a head, "
            f"got {len(factors)}"
        )

    # Their tensors have an axis more, which the models here do not have.
    experts = facts.get("expert_count")
    if experts:
        problems.append(
            f"{architecture}.expert_count: expected no mixture of experts, "
            f"got {experts}"
        )
    return problems


def _share_of_width(fields: dict[str, Any]) -> Any:
    """Return the width of a head that is not in the metadata; None of broken sizes."""
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if type(width) is int and type(heads) is int and heads > 0:
        return width // heads
    return None


def _permuted(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, int]:
    """Return the number of heads of each tensor whose rows llama.cpp has permuted."""
    heads = {
        "q": config["num_attention_heads"],
        "k": config["num_key_value_heads"],
    }
    heads_by_name = {}
    for name in tensors:
        # Weights and biases alike.
        if match := re.search(r"\.self_attn\.([qk])_proj\.", name):
            heads_by_name[name] = heads[match[1]]
    return heads_by_name


def _unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """Return the tensor with the rows of each head in Hugging Face's order."""
    rows = tensor.shape[0]
    # [heads, pairs, 2] -> [heads, 2, pairs]
    order = np.arange(rows).reshape(heads, -1, 2)
    order = order.swapaxes(1, 2).reshape(-1)
    return tensor._replace(read=partial(_read_rows, tensor, order))


def _read_rows(tensor: Tensor, order: np.ndarray) -> Any:
    numbers = tensor.read()
    if quant.is_quantized(numbers):
        return numbers.reorder_rows(order)
    return numbers[order]
