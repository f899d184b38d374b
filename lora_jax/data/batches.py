"""Batches of rows of like length, in few shapes, so that little padding is computed and little is compiled."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.data.tokenize import Encoded

CHUNK = 64  # batches sorted together: enough for rows of one length to meet, few enough to keep an epoch random


class Batch(NamedTuple):
    """B rows padded to T tokens. The rows that only fill a batch up are copies with weight 0 and index -1.

    They are copies rather than padding because a row of length 0 would make a masked softmax divide 0 by 0.
    """

    tokens: np.ndarray  # [B, T] int32
    segments: np.ndarray  # [B, T] int32, 0 where padded
    length: np.ndarray  # [B] int32, the row's own tokens
    label: np.ndarray  # [B] int32, or float32 for regression
    weight: np.ndarray  # [B] float32, 1 or 0
    index: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride] # tuple.index; [B] int32, the row's place in what was encoded


def widths(max_length: int) -> tuple[int, ...]:
    """The lengths to pad to: 16, 24, 32, 40, 48, 64, then multiples of 16 about a quarter apart.

    `max_length` is the last, so no batch is wider than the positions of a model. Raises ValueError below 1.
    """
    if max_length < 1:
        raise ValueError(f"expected max_length of 1 or more, got {max_length}")
    steps = [16, 24, 32, 40, 48, 64]
    while steps[-1] < max_length:
        steps.append(max(steps[-1] + 16, round(steps[-1] * 1.25 / 16) * 16))
    return (*(step for step in steps if step < max_length), max_length)


def batches(
    encoded: Encoded,
    *,
    size: int,
    widths: Sequence[int],
    seed: int | None,
    epoch: int = 0,
    pad: int,
) -> Iterator[Batch]:
    """Every row once, in ceil(N / size) batches, each padded with `pad` to the smallest of `widths` that holds it.

    With a seed the order is a pure function of (seed, epoch): a shuffle, sorted by length within chunks of 64 batches,
    and the batches shuffled again. With None, for evaluation, rows are sorted by length; `index` says which is which.
    Raises ValueError when there are no rows, `size` is below 1, or the longest row is longer than the widest width.
    """
    lengths = encoded.lengths
    if size < 1 or not len(lengths):
        raise ValueError(
            f"expected a batch size and a number of rows of 1 or more, got {size} and {len(lengths)}"
        )
    if lengths.max() > max(widths, default=0):
        raise ValueError(
            f"expected rows of at most {max(widths, default=0)} tokens, the widest width, got {lengths.max()}"
        )
    if seed is None:
        plan = _cut(np.argsort(lengths, kind="stable"), size)
    else:
        plan = _shuffled(lengths, size, np.random.default_rng((seed, epoch)))
    return (
        _batch(
            encoded, rows, size, min(w for w in widths if w >= lengths[rows].max()), pad
        )
        for rows in plan
    )


def padding(batches: Iterable[Batch]) -> float:
    """Padding tokens computed for each real token, with those of fill rows: 0.08 is 8 % more work than needed."""
    sizes = [
        (batch.tokens.size, batch.length[batch.index >= 0].sum()) for batch in batches
    ]
    computed, real = np.sum(sizes, axis=0)
    return float(computed / real - 1)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _shuffled(
    lengths: np.ndarray, size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    chunks = _cut(rng.permutation(len(lengths)), CHUNK * size)
    plan = [
        rows
        for chunk in chunks
        for rows in _cut(chunk[np.argsort(lengths[chunk], kind="stable")], size)
    ]
    return [plan[i] for i in rng.permutation(len(plan))]


def _batch(
    encoded: Encoded, rows: np.ndarray, size: int, width: int, pad: int
) -> Batch:
    real = np.arange(size) < len(rows)
    filled = np.resize(rows, size)
    length = encoded.lengths[filled]
    column = np.arange(width)
    inside = column < length[:, None]
    place = np.where(inside, encoded.offsets[filled, None] + column, 0)
    return Batch(
        tokens=np.where(inside, encoded.tokens[place], pad).astype(np.int32),
        segments=np.where(inside, encoded.segments[place], 0).astype(np.int32),
        length=length.astype(np.int32),
        label=encoded.label[filled],
        weight=real.astype(np.float32),
        index=np.where(real, filled, -1).astype(np.int32),
    )
