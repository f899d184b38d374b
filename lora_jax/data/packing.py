"""Several short texts in a long row, which needs little padding whatever their lengths.

A packed batch has the texts of a padded one, so that a training step is of the same
texts either way. Shape letters: R packed rows of T tokens, N texts of the batch.
"""

import numpy as np

from lora_jax.data.batches import Batch


def pack(batch: Batch, *, width: int, multiple: int = 1, pad: int) -> Batch:
    """Return a batch with its texts in as few rows of `width` tokens as they fit in.

    Texts of weight 0, which only fill the batch up, are left out. Labels, weights and
    indices are [R, N]: those of a row's texts come first, then fillers of weight 0 and
    index -1.

    Args:
        batch: padded rows, a text each.
        width: tokens of a packed row.
        multiple: the number of rows is one, for devices and micro-batches to share.
        pad: the token that fills a row up.

    Raises:
        ValueError: a text is longer than `width`.
    """
    is_text = batch.index >= 0
    longest = int(batch.length[is_text].max(initial=0))
    if longest > width:
        raise ValueError(
            f"expected texts of at most {width} tokens, the width of a packed row, "
            f"got one of {longest}"
        )
    rows = _assign(batch.length, np.flatnonzero(is_text), width)
    count = -(-len(rows) // multiple) * multiple
    packed = _empty(batch, count, width, pad)
    numbers = np.zeros((count, width), np.int32)
    starts = np.zeros(packed.index.shape, np.int32)
    for row, texts in enumerate(rows):
        start = 0
        for place, text in enumerate(texts):
            stop = start + batch.length[text]
            packed.tokens[row, start:stop] = batch.tokens[text, : stop - start]
            packed.segments[row, start:stop] = batch.segments[text, : stop - start]
            numbers[row, start:stop] = place + 1
            starts[row, place] = start
            packed.label[row, place] = batch.label[text]
            packed.weight[row, place] = batch.weight[text]
            packed.index[row, place] = batch.index[text]
            start = stop
        packed.length[row] = start
    return packed._replace(texts=numbers, starts=starts)


def _assign(lengths: np.ndarray, texts: np.ndarray, width: int) -> list[list[int]]:
    """Return the texts of each row: the longest first, each in the first row with room.

    That takes at most 11/9 of the fewest rows possible, and one more.
    """
    order = np.argsort(-lengths[texts], kind="stable")
    rows: list[list[int]] = []
    room: list[int] = []
    for text in texts[order].tolist():
        length = int(lengths[text])
        row = next((row for row, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(text)
        room[row] -= length
    return rows


def _empty(batch: Batch, rows: int, width: int, pad: int) -> Batch:
    """Return rows without a text."""
    texts = len(batch.length)
    return Batch(
        tokens=np.full((rows, width), pad, np.int32),
        segments=np.zeros((rows, width), np.int32),
        length=np.zeros(rows, np.int32),
        label=np.zeros((rows, texts), batch.label.dtype),
        weight=np.zeros((rows, texts), np.float32),
        index=np.full((rows, texts), -1, np.int32),
    )
