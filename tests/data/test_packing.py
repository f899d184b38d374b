"""Several texts in a row: where each token goes, and that none is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import data

PAD = 9


def encoded(*texts: list[int]) -> data.Encoded:
    """Texts whose last token is of the second segment, labeled 0, 1, 2 ..."""
    lengths = [len(text) for text in texts]
    segments = []
    for text in texts:
        segments += [0] * (len(text) - 1) + [1]
    return data.Encoded(
        tokens=np.concatenate(texts).astype(np.int32),
        segments=np.array(segments, np.int32),
        offsets=np.cumsum([0, *lengths]),
        label=np.arange(len(texts), dtype=np.int32),
    )


def batch_of(*texts: list[int], size: int) -> data.Batch:
    (batch,) = data.batches(
        encoded(*texts), size=size, widths=(16,), seed=None, pad=PAD
    )
    return batch


def test_by_hand():
    batch = batch_of([1, 2, 3], [4], [5, 6], size=4)
    packed = data.pack(batch, width=4, pad=PAD)
    # The longest first, and the one of one token in the room that it leaves.
    assert packed.tokens.tolist() == [[1, 2, 3, 4], [5, 6, PAD, PAD]]
    assert packed.segments.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert packed.texts.tolist() == [[1, 1, 1, 2], [1, 1, 0, 0]]
    assert packed.length.tolist() == [4, 2]
    assert packed.starts.tolist() == [[0, 3, 0, 0], [0, 0, 0, 0]]
    assert packed.label.tolist() == [[0, 1, 0, 0], [2, 0, 0, 0]]
    assert packed.index.tolist() == [[0, 1, -1, -1], [2, -1, -1, -1]]
    assert packed.weight.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert packed.token_count == batch.token_count == 6


def test_the_number_of_rows_is_a_multiple():
    packed = data.pack(batch_of([1, 2], [3], size=2), width=4, multiple=3, pad=PAD)
    assert packed.length.tolist() == [3, 0, 0]
    assert (packed.tokens[1:] == PAD).all()
    assert not packed.weight[1:].any()
    assert packed.token_count == 3


def test_a_text_longer_than_a_row():
    message = "texts of at most 2 tokens, the width of a packed row, got one of 3"
    with pytest.raises(ValueError, match=message):
        data.pack(batch_of([1, 2, 3], size=1), width=2, pad=PAD)


TEXTS = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6), min_size=1)


@settings(max_examples=50, deadline=None)
@given(texts=TEXTS, width=st.integers(6, 16), multiple=st.integers(1, 3))
def test_every_text_is_there_once(texts, width, multiple):
    batch = batch_of(*texts, size=len(texts) + 1)
    packed = data.pack(batch, width=width, multiple=multiple, pad=PAD)
    assert len(packed.tokens) % multiple == 0
    unpacked = {}
    for row, place in np.argwhere(packed.weight == 1):
        is_text = packed.texts[row] == place + 1
        assert np.flatnonzero(is_text)[0] == packed.starts[row, place]
        index = packed.index[row, place]
        assert packed.label[row, place] == index
        unpacked[index] = packed.tokens[row, is_text].tolist()
    assert unpacked == dict(enumerate(texts))
    # No two rows could be one.
    lengths = sorted(packed.length[packed.length > 0].tolist())
    assert len(lengths) < 2 or lengths[0] + lengths[1] > width
