"""What a task is: named splits of examples, and how predictions on them are scored.

Examples are labeled texts, or sources with the targets a language model writes for
them. Parts of the examples, for shorter runs, are drawn here too.
"""

import hashlib
import random
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """N labeled texts or text pairs.

    `label` [N] is an int32 class index, or a float32 score for regression. In a task
    that generates, `text` holds the sources, `pair` their targets and `label` zeros; a
    source with several targets has a row for each of them.
    """

    text: list[str]  # [N]
    pair: list[str] | None  # [N], or None where an example is one text
    label: np.ndarray  # [N]


class Task(NamedTuple):
    """A task to fine-tune on.

    `splits` always has `train` and `validation`, and often `test`. `labels` names the
    classes by index; it is empty for regression. `metrics` are names in
    `metrics.METRICS`; the first one chooses the best epoch. `source` says where the
    rows come from, without absolute paths.

    A task that `generates` gives a source and asks for a target: it has no labels, and
    its metrics score text. `notes` say, in sentences for whoever runs it, what of the
    files was left out and how they were understood.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    splits: dict[str, Examples]
    source: str
    generates: bool = False  # text is written for a source, not classified
    notes: tuple[str, ...] = ()


def hashed_split(key: str) -> str:
    """Return the split of everything that shares `key`.

    About 80 % of the keys are train, 10 % validation and 10 % test. The split depends
    on the key alone, so it stays when rows are added, removed or reordered.
    """
    # A lone surrogate, which JSON can spell, has no UTF-8 of its own.
    key_bytes = key.encode(errors="surrogatepass")
    digest = hashlib.sha256(key_bytes).hexdigest()
    first_digits = digest[:8]
    # Ten buckets of about equal size: eight of them are train.
    bucket = int(first_digits, 16) % 10
    if bucket == 0:
        return "test"
    if bucket == 1:
        return "validation"
    return "train"


def subset(examples: Examples, rows: int, *, seed: int = 0) -> Examples:
    """Return the first `rows` examples after a shuffle with `seed`.

    When there are fewer, all of them are returned, shuffled. A smaller subset is the
    beginning of a larger one with the same seed.

    Raises:
        ValueError: `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"expected at least 1 row in a subset, got {rows}")
    order = list(range(len(examples.text)))
    # Python's own shuffle, so that another framework can draw the same rows.
    rng = random.Random(seed)
    rng.shuffle(order)
    return _select(examples, order[:rows])


def subset_of_sources(examples: Examples, sources: int, *, seed: int = 0) -> Examples:
    """Return all rows of the first `sources` distinct sources after a shuffle.

    The rows stay in their order, and every source keeps all its targets, as scoring
    against several references needs. 0 returns all examples.

    Raises:
        ValueError: `sources` is below 0.
    """
    if sources < 0:
        raise ValueError(f"expected 0 (all) or more sources, got {sources}")
    # The very same object: nothing is copied.
    if sources == 0:
        return examples
    # In the order of the rows, so that a shuffle depends on the seed alone.
    distinct = list(dict.fromkeys(examples.text))
    rng = random.Random(seed)
    rng.shuffle(distinct)
    selected = set(distinct[:sources])
    rows = []
    for row, text in enumerate(examples.text):
        if text in selected:
            rows.append(row)
    return _select(examples, rows)


def references(examples: Examples) -> dict[str, list[str]]:
    """Return the distinct sources in their order, each with all its targets.

    Raises:
        ValueError: the examples have no targets.
    """
    targets_by_source: dict[str, list[str]] = {}
    pairs = zip(examples.text, targets(examples), strict=True)
    for source, target in pairs:
        # A source meets its other targets wherever they stand.
        source_targets = targets_by_source.setdefault(source, [])
        source_targets.append(target)
    return targets_by_source


def targets(examples: Examples) -> list[str]:
    """Return the target of each source.

    Raises:
        ValueError: the examples have no targets.
    """
    if examples.pair is None:
        raise ValueError(
            "expected examples with sources and targets, got texts alone; "
            "this task does not generate"
        )
    return examples.pair


def _select(examples: Examples, rows: list[int]) -> Examples:
    # Rows stay together: text, pair and label of one example.
    text = [examples.text[row] for row in rows]
    pair = None
    if examples.pair is not None:
        pair = [examples.pair[row] for row in rows]
    return Examples(text, pair, examples.label[rows])
