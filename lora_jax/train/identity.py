"""Which training a saved state is of: a digest of everything that its steps depend on."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from lora_jax import data, tree
from lora_jax.train.config import TrainConfig


def training_identity(
    trainable: Any,
    encoded: data.Encoded,
    config: TrainConfig,
    *,
    seed: int,
    widths: Any,
) -> dict[str, str]:
    """Return texts by name that two trainings share only if their steps are the same.

    The frozen weights are not read, for they may have gigabytes: of them, only what the
    trainable leaves start from is known.
    """
    settings = {name: str(value) for name, value in asdict(config).items()}
    # What is computed anew, and on how many devices, depends on a machine's memory and
    # changes no number beyond its rounding.
    for name in ("remat", "mesh", "shard_base"):
        del settings[name]
    return {
        **settings,
        "seed": str(seed),
        "widths": str(tuple(widths)),
        "training rows": digest(jax.tree.leaves(encoded)),
        "trainable leaves": digest_tree(trainable),
    }


def differences(saved: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return what differs between two identities, a phrase each."""
    phrases = []
    for name, value in ours.items():
        other = saved.get(name)
        if other == value:
            continue
        # Digests say nothing to a reader.
        if name in ("training rows", "trainable leaves"):
            phrases.append(f"other {name}")
        else:
            phrases.append(f"{name} {other}, not {value}")
    return phrases


def digest_tree(values: Any) -> str:
    """Return a digest of a tree's paths and arrays."""
    leaves = tree.leaves(values)
    names = hashlib.sha256("\n".join(leaves).encode()).hexdigest()
    return f"{names[:8]}{digest(leaves.values())}"


def digest(arrays: Any) -> str:
    """Return a digest of arrays: their dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        numbers = np.ascontiguousarray(array)
        # Without the shape, rows that are cut elsewhere would look alike.
        sha.update(f"{numbers.dtype} {numbers.shape}".encode())
        sha.update(numbers.tobytes())
    return sha.hexdigest()[:16]
