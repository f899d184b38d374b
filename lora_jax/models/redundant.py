"""Tensors that a checkpoint may have although its config.json says the same.

They are no parameters of the models here. One that says something else than the
config.json is an error: a model of that file is none of these.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lora_jax.checkpoints.tensor import Tensor, list_lines
from lora_jax.models import rope

# The token embedding of each family, and of a decoder that was saved without a head.
EMBEDDINGS = (
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "wte.weight",
)
INVERSE_FREQUENCIES = r".*rotary_emb\.inv_freq"
CAUSAL_MASK = r"(?:transformer\.)?h\.\d+\.attn\.bias"
POSITIONS = r".*embeddings\.position_ids"
# Frequencies were stored in 16 bits as well.
RELATIVE_ERROR, ABSOLUTE_ERROR = 0.01, 1e-6


def check_tied_head(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if a tied head is in the checkpoint and is no embedding.

    A model with one tensor for both cannot compute what that checkpoint says.
    """
    head = tensors.get("lm_head.weight")
    if head is None:
        return
    for name in EMBEDDINGS:
        embedding = tensors.get(name)
        if embedding is not None and not _is_same(head, embedding):
            raise ValueError(
                f"{source}: config.json ties the head to the embedding "
                f"(tie_word_embeddings), but lm_head.weight differs from {name}; set "
                "tie_word_embeddings to false to use the head, or take it out of the "
                "checkpoint"
            )


def check_buffers(
    source: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> None:
    """Raise a ValueError that lists buffers which differ from what config.json says.

    They are the rotary frequencies, the causal mask and the numbers of positions.
    """
    problems = []
    for name, tensor in sorted(tensors.items()):
        problem = ""
        # One tensor at a time: GPT-2's masks are a megabyte a layer.
        if re.fullmatch(INVERSE_FREQUENCIES, name):
            problem = _frequency_problem(tensor, config)
        elif re.fullmatch(CAUSAL_MASK, name) and not _is_causal(tensor.read()):
            problem = "expected ones on and below the diagonal, and zeros above"
        elif re.fullmatch(POSITIONS, name) and not _is_counted(tensor.read()):
            problem = "expected 0, 1, 2, ..."
        if problem:
            problems.append(f"{name} {tensor.shape} in {tensor.file}: {problem}")
    if problems:
        raise ValueError(
            f"{source}: the checkpoint and config.json disagree:{list_lines(problems)}"
        )


def _is_same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    # Either may be quantized: then all its arrays are compared.
    arrays = [jax.tree.leaves(tensor.read()) for tensor in (first, second)]
    if len(arrays[0]) != len(arrays[1]):
        return False
    pairs = zip(*arrays, strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def _frequency_problem(tensor: Tensor, config: Mapping[str, Any]) -> str:
    """Return what is wrong with stored frequencies, or nothing."""
    head_dim = config.get("head_dim")
    if not head_dim:
        head_dim = config["hidden_size"] // config["num_attention_heads"]
    if tensor.shape != (head_dim // 2,):
        return f"expected one for each pair of {head_dim} numbers of a head"
    # In double precision, as config.json has them.
    stored = np.asarray(tensor.read(), np.float64)
    # Positions were scaled instead of frequencies before transformers 4.43.
    plain = rope.plain_frequencies(config, head_dim)
    scaled = rope.rope_frequencies(config, head_dim)
    for expected in (plain, scaled):
        if np.allclose(stored, expected, rtol=RELATIVE_ERROR, atol=ABSOLUTE_ERROR):
            return ""
    return (
        f"expected the powers of rope_theta {rope.read_base(config):g}, which begin "
        f"with {plain[:2]}, got {tuple(stored[:2].tolist())}"
    )


def _is_causal(mask: np.ndarray) -> bool:
    # [1, 1, T, T], of floats, whole numbers or truth values.
    if mask.ndim < 2 or mask.shape[-1] != mask.shape[-2]:
        return False
    return bool((mask == np.tril(np.ones_like(mask))).all())


def _is_counted(positions: np.ndarray) -> bool:
    # [T] or [1, T]
    flat = positions.reshape(-1)
    return np.array_equal(flat, np.arange(len(flat)))
