"""Directories with small checkpoints of BERT and RoBERTa."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "##s", "good", "Good"]
HF: dict[str, Any] = dict(
    model_type="bert",
    num_hidden_layers=2,
    hidden_size=8,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=len(WORDS),
    max_position_embeddings=16,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    hidden_act="gelu",
    pad_token_id=0,
)
LINEAR = {
    "attention.self.query": (8, 8),
    "attention.self.key": (8, 8),
    "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8),
    "intermediate.dense": (16, 8),
    "output.dense": (8, 16),
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Hugging Face's names and shapes of an encoder without a head."""
    named: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), 8),
        "embeddings.position_embeddings.weight": (16, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "pooler.dense.weight": (8, 8),
        "pooler.dense.bias": (8,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        prefix = f"encoder.layer.{layer}"
        for name, shape in LINEAR.items():
            named[f"{prefix}.{name}.weight"] = shape
            named[f"{prefix}.{name}.bias"] = shape[:1]
        norms.append(f"{prefix}.attention.output.LayerNorm")
        norms.append(f"{prefix}.output.LayerNorm")
    for norm in norms:
        named[f"{norm}.weight"] = (8,)
        named[f"{norm}.bias"] = (8,)
    return named


def random_arrays(kind: str, **heads: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random tensors of an encoder; a head's names have "__" where a dot is."""
    named = {f"{kind}.{name}": shape for name, shape in shapes().items()}
    named |= {name.replace("__", "."): shape for name, shape in heads.items()}
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in named.items():
        arrays[name] = rng.normal(size=shape).astype(np.float32)
    return arrays


def write(folder: Path, arrays: dict[str, np.ndarray], **changes: Any) -> None:
    """Write the directory: tensors, config.json with changes, a vocabulary."""
    (folder / "config.json").write_text(json.dumps(HF | changes))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    save_file(arrays, folder / "model.safetensors")
