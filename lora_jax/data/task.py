"""What a task is: named splits of labelled texts or of sources and targets, and how it is scored."""

import hashlib
import random
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """N labelled texts, or text pairs; `label` [N] is an int32 class index, or a float32 score for regression.

    Where a task generates, `text` are sources, `pair` their targets, and `label` zeros; a source may be there again.
    """

    text: list[str]
    pair: list[str] | None
    label: np.ndarray


class Task(NamedTuple):
    """A task to fine-tune on. `splits` always has `train` and `validation`, and has what else there is.

    `labels` names the classes by index and is empty for regression. `metrics` are names in `metrics.METRICS`, the first
    being the one that chooses the best epoch. `source` says where the rows came from, without absolute paths. A task that
    `generates` is given a source and writes a target; it has no labels, and its metrics are in `text_metrics.METRICS`.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: dict[str, Examples]
    source: str
    generates: bool = False


def hashed_split(key: str, seed: int = 0) -> str:
    """The split of everything that shares `key`: about 80 % train, 10 % validation, 10 % test.

    It depends on the key alone, so it stays when rows are added, removed or reordered. Another `seed` is another split.
    """
    salted = f"{seed}:{key}" if seed else key
    bucket = (
        int(hashlib.sha256(salted.encode(errors="surrogatepass")).hexdigest()[:8], 16)
        % 10
    )
    return {0: "test", 1: "validation"}.get(bucket, "train")


def refuse_split_seed(name: str, seed: int) -> None:
    """Raise ValueError when a split seed is asked of a task whose splits are given: it would change nothing."""
    if seed:
        raise ValueError(
            f"{name} comes with its own splits, so split_seed must be 0, got {seed}"
        )


def subset(examples: Examples, rows: int, *, seed: int = 0) -> Examples:
    """The first `rows` examples after a shuffle with `seed`, or all of them, shuffled, when there are fewer.

    A smaller subset is the beginning of a larger one with the same seed. Raises ValueError when `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"expected at least 1 row in a subset, got {rows}")
    chosen = list(range(len(examples.text)))
    random.Random(seed).shuffle(
        chosen
    )  # Python's own, so that the same rows are easily drawn in another framework
    return _rows(examples, chosen[:rows])


def some(examples: Examples, sources: int, *, seed: int = 0) -> Examples:
    """All rows, in their order, of the first `sources` distinct sources after a shuffle with `seed`; 0 is all.

    For evaluating a part: every source keeps all its targets. Raises ValueError when `sources` is below 0.
    """
    if sources < 0:
        raise ValueError(f"expected 0 (all) or more sources, got {sources}")
    if not sources:
        return examples
    distinct = list(dict.fromkeys(examples.text))
    random.Random(seed).shuffle(distinct)
    chosen = set(distinct[:sources])
    return _rows(
        examples, [i for i, source in enumerate(examples.text) if source in chosen]
    )


def references(examples: Examples) -> dict[str, list[str]]:
    """Distinct sources in their order, each with all its targets. Raises ValueError when there are no targets."""
    grouped: dict[str, list[str]] = {}
    for source, target in zip(examples.text, targets(examples), strict=True):
        grouped.setdefault(source, []).append(target)
    return grouped


def targets(examples: Examples) -> list[str]:
    """The targets of sources. Raises ValueError when there are none."""
    if examples.pair is None:
        raise ValueError(
            "expected examples with sources and targets, got texts alone; this task does not generate"
        )
    return examples.pair


def _rows(examples: Examples, chosen: list[int]) -> Examples:
    pair = None if examples.pair is None else [examples.pair[i] for i in chosen]
    return Examples([examples.text[i] for i in chosen], pair, examples.label[chosen])
