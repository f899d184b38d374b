"""Batches of rows of like length, in few shapes.

Rows of like length need little padding, and few shapes need few compilations.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lora_jax.data.tokenize import Encoded

# Batches whose rows are sorted together: enough for rows of one length to meet, few
# enough to keep an epoch random.
CHUNK = 64


# Below 64 tokens steps of 8 to 16 cost few shapes and save much padding.
FIRST_WIDTHS = (16, 24, 32, 40, 48, 64)


class Batch(NamedTuple):
    """B rows padded to T tokens.

    The last batch of an epoch may have fewer rows than B: it is filled up with copies
    of weight 0 and index -1. They are copies because a row of length 0 would make a
    masked softmax divide 0 by 0.
    """

    tokens: np.ndarray  # [B, T] int32
    segments: np.ndarray  # [B, T] int32, 0 where padded
    length: np.ndarray  # [B] int32, the row's own tokens
    label: np.ndarray  # [B] int32, or float32 for regression
    weight: np.ndarray  # [B] float32, 1 or 0
    # [B] int32, the row's place in what was encoded.
    index: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride] # tuple.index
    # Of packed rows alone (see `packing.py`), whose labels, weights and indices are
    # [B, N], of each row's texts.
    texts: np.ndarray | None = None  # [B, T] int32, a token's text, from 1; padding: 0
    starts: np.ndarray | None = None  # [B, N] int32, the first token of each text

    @property
    def token_count(self) -> int:
        """The tokens of all rows that do not only fill the batch up."""
        is_row = self.index >= 0
        if self.texts is not None:
            is_row = is_row.any(1)
        return int(self.length[is_row].sum())


def widths(max_length: int) -> tuple[int, ...]:
    """Return the lengths to pad to: 16, 24, 32, 40, 48, 64, then multiples of 16.

    The multiples are about a quarter apart. `max_length` is the last length, so no
    batch is wider than the positions of a model.

    Raises:
        ValueError: `max_length` is below 1.
    """
    if max_length < 1:
        raise ValueError(f"expected max_length of 1 or more, got {max_length}")
    steps = []
    step = FIRST_WIDTHS[0]
    while step < max_length:
        steps.append(step)
        step = _next_width(step)
    return (*steps, max_length)


def batches(
    encoded: Encoded,
    *,
    size: int,
    widths: Sequence[int],
    seed: int | None,
    epoch: int = 0,
    pad: int,
) -> Iterator[Batch]:
    """Return every row once, in ceil(N / size) batches.

    A batch is padded with `pad` to the smallest of `widths` that holds its rows.

    With a seed the order is a pure function of (seed, epoch): rows are shuffled, sorted
    by length within chunks of 64 batches, and the batches shuffled again. With None,
    for evaluation, rows are sorted by length, and `index` says which row is which.

    Raises:
        ValueError: there are no rows, `size` is below 1, or the longest row is longer
            than the largest width.
    """
    # Errors first: what is returned is only computed as it is asked for.
    lengths = encoded.lengths
    if size < 1 or not len(lengths):
        raise ValueError(
            "expected a batch size and a number of rows of 1 or more, "
            f"got {size} and {len(lengths)}"
        )
    widest = max(widths, default=0)
    if lengths.max() > widest:
        raise ValueError(
            f"expected rows of at most {widest} tokens, the widest width, "
            f"got {lengths.max()}"
        )
    if seed is None:
        row_groups = _sorted_groups(np.arange(len(lengths)), lengths, size)
    else:
        rng = np.random.default_rng((seed, epoch))
        row_groups = _shuffled_groups(lengths, size, rng)
    return _padded_batches(encoded, row_groups, size, widths, pad)


def _next_width(width: int) -> int:
    """The width after one: a quarter more, as a multiple of 16."""
    if width < FIRST_WIDTHS[-1]:
        position = FIRST_WIDTHS.index(width)
        return FIRST_WIDTHS[position + 1]
    multiples = round(width * 1.25 / 16)
    return max(width + 16, multiples * 16)


def _padded_batches(
    encoded: Encoded,
    row_groups: Sequence[np.ndarray],
    size: int,
    widths: Sequence[int],
    pad: int,
) -> Iterator[Batch]:
    for rows in row_groups:
        longest = encoded.lengths[rows].max()
        width = min(width for width in widths if width >= longest)
        yield _pad_rows(encoded, rows, size, width, pad)


def _shuffled_groups(
    lengths: np.ndarray, size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The rows of each batch, in a random order."""
    shuffled_rows = rng.permutation(len(lengths))
    groups: list[np.ndarray] = []
    for chunk in _cut(shuffled_rows, CHUNK * size):
        groups += _sorted_groups(chunk, lengths, size)
    # Shuffled again: within a chunk, groups are sorted by length.
    order = rng.permutation(len(groups))
    return [groups[position] for position in order]


def _sorted_groups(
    rows: np.ndarray, lengths: np.ndarray, size: int
) -> list[np.ndarray]:
    """The rows by length, cut into groups of `size`; equal lengths keep their order."""
    order = np.argsort(lengths[rows], kind="stable")
    return _cut(rows[order], size)


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    groups = []
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        groups.append(group)
    return groups


def _pad_rows(
    encoded: Encoded, rows: np.ndarray, size: int, width: int, pad: int
) -> Batch:
    is_row = np.arange(size) < len(rows)  # [B]
    # Copies of the first rows fill a short batch up.
    filled = np.resize(rows, size)  # [B]
    length = encoded.lengths[filled]  # [B]
    start = encoded.offsets[filled]  # [B]
    column = np.arange(width)  # [T]
    inside = column < length[:, None]  # [B, T]
    # Padding reads token 0, which is overwritten below.
    position = start[:, None] + column
    position = np.where(inside, position, 0)
    tokens = np.where(inside, encoded.tokens[position], pad)
    segments = np.where(inside, encoded.segments[position], 0)
    index = np.where(is_row, filled, -1)
    return Batch(
        tokens=tokens.astype(np.int32),
        segments=segments.astype(np.int32),
        length=length.astype(np.int32),
        label=encoded.label[filled],
        weight=is_row.astype(np.float32),
        index=index.astype(np.int32),
    )
