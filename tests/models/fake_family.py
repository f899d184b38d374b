"""A family of models of three leaves, and a directory with a pretrained one."""

import json
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lora_jax.checkpoints.placement import Rule

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "##s", "good", "Good"]


def _init(key: jax.Array, config: dict[str, Any], *, labels: int) -> dict[str, Any]:
    draw = jax.random.normal
    return {
        "embed": {"tokens": draw(key, (config["vocab_size"], 4))},
        "blocks": {"kernel": draw(key, (2, 4, 3))},
        "head": {"kernel": draw(key, (4, labels)), "bias": jnp.zeros(labels)},
    }


RULES = (
    Rule(r"tokens\.weight", "embed/tokens"),
    Rule(r"layer\.(\d)\.weight", "blocks/kernel", layer=1, transpose=True),
    Rule(r"classifier\.(kernel|bias)", r"head/\1"),
)
FAKE = types.SimpleNamespace(
    Config=types.SimpleNamespace(from_hf=lambda config: config),
    init=_init,
    rules=lambda config: RULES,
    without_other_heads=lambda tensors, *_, labels: tensors,
    IGNORE=("position_ids",),
    SIZES=(),
)


def weights() -> dict[str, np.ndarray]:
    """The tensors of the checkpoint; it has no head."""
    tokens = np.arange(len(WORDS) * 4, dtype=np.float32)
    return {
        "tokens.weight": tokens.reshape(-1, 4),
        "position_ids": np.arange(3),
        "layer.0.weight": np.zeros((3, 4), np.float32),
        "layer.1.weight": np.ones((3, 4), np.float32),
    }


def write_model(parent: Path) -> Path:
    """Write all files of a pretrained model into the folder my-model."""
    folder = parent / "my-model"
    folder.mkdir()
    config = {"model_type": "fake", "vocab_size": len(WORDS)}
    (folder / "config.json").write_text(json.dumps(config))
    ids = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(ids, "[UNK]"))
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(weights(), folder / "model.safetensors")
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | changes))
