"""Batches of random text."""

import numpy as np

from lora_jax import data


def text_batch(rows: int = 3, width: int = 10, seed: int = 1) -> data.Batch:
    """Rows of text, all of which the loss is about; labels are 0 and 1."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 50, (rows, width)).astype(np.int32)
    return data.Batch(
        tokens=tokens,
        segments=np.ones_like(tokens),
        length=np.full(rows, width, np.int32),
        label=np.arange(rows, dtype=np.int32) % 2,
        weight=np.ones(rows, np.float32),
        index=np.arange(rows, dtype=np.int32),
    )
