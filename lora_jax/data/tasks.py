"""What a task is: named splits of labelled texts, the names of its labels, and how it is scored."""

import hashlib
import random
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """N labelled texts, or text pairs; `label` [N] is an int32 class index, or a float32 score for regression."""

    text: list[str]
    pair: list[str] | None
    label: np.ndarray


class Task(NamedTuple):
    """A task to fine-tune on. `splits` always has `train` and `validation`, and has what else there is.

    `labels` names the classes by index and is empty for regression. `metrics` are names in `metrics.METRICS`, the first
    being the one that chooses the best epoch. `source` says where the rows came from, without absolute paths.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: dict[str, Examples]
    source: str


def hashed_split(key: str, seed: int = 0) -> str:
    """The split of everything that shares `key`: about 80 % train, 10 % validation, 10 % test.

    It depends on the key alone, so it stays when rows are added, removed or reordered. Another `seed` is another split.
    """
    salted = f"{seed}:{key}" if seed else key
    bucket = int(hashlib.sha256(salted.encode(errors="surrogatepass")).hexdigest()[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def refuse_split_seed(name: str, seed: int) -> None:
    """Raise ValueError when a split seed is asked of a task whose splits are given: it would change nothing."""
    if seed:
        raise ValueError(f"{name} comes with its own splits, so split_seed must be 0, got {seed}")


def subset(examples: Examples, rows: int, *, seed: int = 0) -> Examples:
    """The first `rows` examples after a shuffle with `seed`, or all of them, shuffled, when there are fewer.

    A smaller subset is the beginning of a larger one with the same seed. Raises ValueError when `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"expected at least 1 row in a subset, got {rows}")
    chosen = list(range(len(examples.text)))
    random.Random(seed).shuffle(chosen)  # Python's own, so that the same rows are easily drawn in another framework
    del chosen[rows:]
    pair = None if examples.pair is None else [examples.pair[i] for i in chosen]
    return Examples([examples.text[i] for i in chosen], pair, examples.label[chosen])
