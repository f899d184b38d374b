"""Directories with small checkpoints of BERT and RoBERTa."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.models.fake_family import WORDS
from tests.models.small_bert import CONFIG, bert_shapes


def random_arrays(kind: str, **heads: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random tensors of an encoder; a head's names have "__" where a dot is."""
    named = {f"{kind}.{name}": shape for name, shape in bert_shapes().items()}
    named |= {name.replace("__", "."): shape for name, shape in heads.items()}
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in named.items():
        arrays[name] = rng.normal(size=shape).astype(np.float32)
    return arrays


def write(folder: Path, arrays: dict[str, np.ndarray], **changes: Any) -> None:
    """Write the directory: tensors, config.json with changes, a vocabulary."""
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    save_file(arrays, folder / "model.safetensors")
