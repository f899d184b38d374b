"""A directory with a whole BERT of two layers, for tests that damage one of its files."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.models.fake_family import WORDS

CONFIG = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}


def bert_shapes() -> dict[str, tuple[int, ...]]:
    """Hugging Face's names and shapes of a BERT without a head."""
    linear = {
        "attention.self.query": (8, 8),
        "attention.self.key": (8, 8),
        "attention.self.value": (8, 8),
        "attention.output.dense": (8, 8),
        "intermediate.dense": (16, 8),
        "output.dense": (8, 16),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), 8),
        "embeddings.position_embeddings.weight": (16, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "pooler.dense.weight": (8, 8),
        "pooler.dense.bias": (8,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        prefix = f"encoder.layer.{layer}"
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[:1]
        norms.append(f"{prefix}.attention.output.LayerNorm")
        norms.append(f"{prefix}.output.LayerNorm")
    for norm in norms:
        shapes[f"{norm}.weight"] = (8,)
        shapes[f"{norm}.bias"] = (8,)
    return shapes


def write_bert(folder: Path) -> dict[str, np.ndarray]:
    """Write the model into the folder; return its tensors by name."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in bert_shapes().items():
        arrays[f"bert.{name}"] = rng.normal(size=shape).astype(np.float32)
    save_file(arrays, folder / "model.safetensors")
    return arrays
