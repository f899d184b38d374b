"""A GGUF file of the Llama family as Hugging Face would have it: the fields of a config.json, and tensors by its names.

Metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. llama.cpp turns neighbouring numbers of a head where Hugging
Face turns those of its two halves, so its converter permutes the rows of query and key; here they go back. The tokenizer is read
by `gguf_tokenizer`.
"""

import re
from typing import Any

import jax
import numpy as np

from lora_jax.checkpoints.gguf.file import File, with_hf_names
from lora_jax.checkpoints.placement import Rule
from lora_jax.checkpoints.tensor import Tensor

ARCHITECTURES = ("llama", "qwen2")
FACTORS = "rope_freqs.weight"  # of Llama 3.1; to Hugging Face no tensor but settings
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
_MODULES = r"(input_layernorm|post_attention_layernorm|self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_RULE = Rule(
    rf"(model\.(embed_tokens|norm|layers\.\d+\.{_MODULES})|lm_head)\.(weight|bias)", ""
)


def hf_config(file: File) -> dict[str, Any]:
    """The fields of Hugging Face's config.json, and `rope_factors` where the file has what each frequency is divided by.

    Raises:
        ValueError: another architecture, or experts; fields that are missing or no positive number; sizes of the vocabulary, or of
            a head, that differ. All of them are with_hf_names.
    """
    kind = file.metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"general.architecture: expected one of {', '.join(ARCHITECTURES)}, got {kind!r}"
        )
    facts = {
        name.removeprefix(f"{kind}."): value for name, value in file.metadata.items()
    }
    optional = {
        "num_key_value_heads": facts.get("attention.head_count"),
        "head_dim": facts.get("attention.key_length"),
        "rope_theta": 10_000.0,
    }
    found = {
        ours: facts.get(theirs, optional.get(ours)) for ours, theirs in _FIELDS.items()
    }
    sizes = _vocabulary(file, facts)
    factors = file.tensors[FACTORS].read().tolist() if FACTORS in file.tensors else []
    if problems := _problems(facts, found, sizes, factors):
        raise ValueError(
            f"this GGUF file does not describe a model of the {kind} family:\n  "
            + "\n  ".join(problems)
        )
    return (
        found
        | _scaling(facts, factors)
        | {
            "model_type": kind,
            "vocab_size": next(iter(sizes.values())),
            "hidden_act": "silu",
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
            "tie_word_embeddings": "output.weight" not in file.tensors,
            "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": facts.get("tokenizer.ggml.eos_token_id"),
            "pad_token_id": facts.get("tokenizer.ggml.padding_token_id"),
        }
    )


def hf_tensors(file: File) -> dict[str, Tensor]:
    """The tensors by Hugging Face's names, rows of query and key in its order, quantised or not; read when asked for.

    Raises:
        ValueError: what `hf_config` raises, or rows of query or key that are no pairs of so many heads.
    """
    facts = hf_config(file)
    found = {
        name: tensor
        for name, tensor in with_hf_names(file, [_RULE]).items()
        if name != FACTORS
    }
    if facts["model_type"] != "llama":
        return found
    counts = {"q": facts["num_attention_heads"], "k": facts["num_key_value_heads"]}
    heads = {
        name: counts[match[1]]
        for name in found
        if (match := re.search(r"\.self_attn\.([qk])_proj\.", name))
    }
    if wrong := [
        name for name, count in heads.items() if found[name].shape[0] % (2 * count)
    ]:
        got = ", ".join(
            f"{name} {found[name].shape} with {heads[name]}" for name in wrong
        )
        raise ValueError(f"expected pairs of rows for each head, got {got}")
    return found | {
        name: _unpermuted(found[name], count) for name, count in heads.items()
    }


def _vocabulary(file: File, facts: dict[str, Any]) -> dict[str, int]:
    """Its size, by each that tells it."""
    tokens, tables = (
        facts.get("tokenizer.ggml.tokens"),
        ("token_embd.weight", "output.weight"),
    )
    told = {
        "vocab_size": facts.get("vocab_size"),
        "tokens": len(tokens) if isinstance(tokens, list) else None,
    }
    rows = {
        f"rows of {name}": file.tensors[name].shape[0]
        for name in tables
        if name in file.tensors
    }
    return {name: size for name, size in told.items() if size is not None} | rows


def _problems(
    facts: dict[str, Any],
    found: dict[str, Any],
    sizes: dict[str, int],
    factors: list[float],
) -> list[str]:
    kind, head = facts["general.architecture"], found["head_dim"]
    problems = [
        f"{kind}.{_FIELDS[name]}: expected a positive number, got {value!r}"
        for name, value in found.items()
        if not (type(value) in (int, float) and value > 0)
        and (name, value) != ("head_dim", None)
    ]
    if len(set(sizes.values())) != 1:
        got = ", ".join(f"{size} {name}" for name, size in sizes.items()) or "none"
        problems.append(f"expected one size of the vocabulary, got {got}")
    if (width := facts.get("attention.key_length", head)) != head:
        problems.append(
            f"{kind}.rope.dimension_count: expected attention.key_length, which is {width}, got {head}"
        )
    if factors and head and 2 * len(factors) != head:
        problems.append(
            f"{FACTORS}: expected one for each pair of {head} numbers of a head, got {len(factors)}"
        )
    if experts := facts.get("expert_count"):
        problems.append(
            f"{kind}.expert_count: expected no mixture of experts, got {experts}"
        )
    return problems


def _scaling(facts: dict[str, Any], factors: list[float]) -> dict[str, Any]:
    """What the model does to its rotary embedding, if anything."""
    if factors:
        return {"rope_factors": factors}
    kind, factor = (
        facts.get("rope.scaling.type", "linear"),
        facts.get("rope.scaling.factor"),
    )
    if kind == "none" or not factor:
        return {}
    known = facts.get("rope.scaling.original_context_length")
    return {
        "rope_scaling": {
            "rope_type": kind,
            "factor": factor,
            "original_max_position_embeddings": known,
        }
    }


def _unpermuted(tensor: Tensor, heads: int) -> Tensor:
    rows = tensor.shape[0]
    order = np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def read() -> (
        Any
    ):  # a quantised value's parts too are rows: its blocks never go from one to the next
        return jax.tree.map(
            lambda part: part.reshape(rows, -1)[order].reshape(part.shape),
            tensor.read(),
        )

    return tensor._replace(read=read)
