"""Batches: every row once, little padding, an order that depends on the seed alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import data
from tests.data.files import message


def ragged(lengths):
    """Rows of these lengths; every token of row i is i + 1."""
    offsets = np.cumsum([0, *lengths])
    rows = [np.full(length, i + 1, np.int32) for i, length in enumerate(lengths)]
    tokens = np.concatenate(rows)
    labels = np.arange(len(lengths), dtype=np.int32)
    return data.Encoded(tokens, tokens % 2, offsets, labels)


def padding(batches):
    """Padding tokens computed for each real token; those of fill rows count too."""
    computed = 0
    real = 0
    for batch in batches:
        computed += batch.tokens.size
        real += batch.length[batch.index >= 0].sum()
    return computed / real - 1


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [
        (5, (5,)),
        (8, (8,)),
        (16, (16,)),
        (20, (16, 20)),
        (64, (16, 24, 32, 40, 48, 64)),
        (100, (16, 24, 32, 40, 48, 64, 80, 96, 100)),
    ],
)
def test_widths_by_hand(max_length, expected):
    assert data.widths(max_length) == expected


@given(st.integers(1, 5000))
def test_widths_end_at_the_longest_and_waste_little(max_length):
    steps = np.array(data.widths(max_length))
    assert steps[-1] == max_length
    assert (np.diff(steps) > 0).all()
    assert len(steps) < 40
    is_wide = steps[1:] > 64
    growth = steps[1:] / steps[:-1]
    assert (growth[is_wide] <= 1.34).all()


def test_widths_refuse_0():
    assert "expected max_length of 1 or more, got 0" in message(data.widths, 0)


def test_a_batch_by_hand():
    (batch,) = data.batches(ragged([1, 3]), size=3, widths=(2, 4, 8), seed=None, pad=9)
    assert batch.tokens.tolist() == [[1, 9, 9, 9], [2, 2, 2, 9], [1, 9, 9, 9]]
    assert batch.segments.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert batch.length.tolist() == [1, 3, 1]
    assert batch.weight.tolist() == [1, 1, 0]
    assert batch.index.tolist() == [0, 1, -1]
    assert batch.label.tolist() == [0, 1, 0]
    # A text a row.
    assert batch[6:] == (None, None)
    dtypes = [array.dtype for array in batch[:6]]
    assert dtypes == [np.int32] * 4 + [np.float32, np.int32]


def test_padding_counts_fill_rows():
    # 3 rows of 4 tokens are computed for 1 + 3 real ones.
    batches = data.batches(ragged([1, 3]), size=3, widths=(4,), seed=None, pad=0)
    assert padding(batches) == 2.0


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=300),
    size=st.integers(1, 9),
    seed=st.none() | st.integers(0, 2**40),
    epoch=st.integers(0, 5),
)
def test_every_row_is_seen_exactly_once(lengths, size, seed, epoch):
    encoded = ragged(lengths)
    widths = data.widths(max(lengths))
    options = {"size": size, "widths": widths, "seed": seed, "epoch": epoch}
    batches = list(data.batches(encoded, pad=0, **options))
    assert len(batches) == -(-len(lengths) // size)
    index = np.concatenate([batch.index for batch in batches])
    assert sorted(index[index >= 0]) == list(range(len(lengths)))
    for batch in batches:
        is_row = batch.index >= 0
        width = min(width for width in widths if width >= batch.length.max())
        assert batch.tokens.shape == (size, width)
        assert (batch.weight == is_row).all()
        assert (batch.length > 0).all()
        assert (batch.length[is_row] == encoded.lengths[batch.index[is_row]]).all()
        inside = np.arange(width) < batch.length[:, None]
        assert (batch.tokens == np.where(inside, batch.label[:, None] + 1, 0)).all()


def order(seed, epoch=0):
    """The rows of an epoch in their order."""
    lengths = np.random.default_rng(0).integers(1, 65, 1000)
    options = {"size": 8, "widths": data.widths(64), "seed": seed, "epoch": epoch}
    batches = data.batches(ragged(lengths), pad=0, **options)
    return np.concatenate([batch.index for batch in batches])


def test_order_is_a_pure_function_of_seed_and_epoch():
    # The global generator is neither read nor moved.
    np.random.seed(7)
    untouched = np.random.rand()
    np.random.seed(7)
    assert (order(0) == order(0)).all()
    assert np.random.rand() == untouched
    orders = [order(0), order(0, 1), order(1), order(1, 1), order(None)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert (first != second).any()
    assert (order(None) == order(None, 3)).all()


def test_training_batches_are_grouped_by_length_but_not_sorted():
    encoded = ragged(np.random.default_rng(0).integers(1, 65, 1000))
    options = {"size": 8, "widths": data.widths(64), "pad": 0}
    shuffled = list(data.batches(encoded, seed=0, **options))
    assert padding(shuffled) < 0.2
    longest = [batch.length.max() for batch in shuffled]
    assert (np.diff(longest) < 0).any()
    assert padding(data.batches(encoded, seed=None, **options)) < 0.2


def groups_of(encoded, epoch, size=4):
    """The rows of each batch, in the order of the batches."""
    batches = data.batches(encoded, size=size, widths=(8,), seed=0, epoch=epoch, pad=0)
    return [frozenset(batch.index.tolist()) for batch in batches]


def test_rows_meet_others_in_each_epoch():
    """Among rows of one length, where sorting by length leaves every order open."""
    encoded = ragged([8] * 64)
    first, second = groups_of(encoded, 0), groups_of(encoded, 1)
    assert set(first) != set(second)
    # Nor are neighbors of the file together, as they would be without a shuffle.
    neighbors = {frozenset(range(start, start + 4)) for start in range(0, 64, 4)}
    assert len(neighbors & set(first)) < 4


def test_long_rows_do_not_come_last_in_each_epoch():
    """Rows 48 to 63 are the long ones: four batches of sixteen."""
    encoded = ragged([2] * 48 + [8] * 16)
    places = []
    for epoch in range(8):
        for place, rows in enumerate(groups_of(encoded, epoch)):
            if min(rows) >= 48:
                places.append(place)
    assert len(places) == 32
    assert min(places) < 8
    assert np.mean(places) == pytest.approx(7.5, abs=2)


def test_batches_refuse_what_does_not_fit():
    text = message(data.batches, ragged([1, 9]), size=2, widths=(4, 8), seed=0, pad=0)
    assert text == "expected rows of at most 8 tokens, the widest width, got 9"
    text = message(data.batches, ragged([1]), size=0, widths=(8,), seed=0, pad=0)
    assert "got 0 and 1" in text
    nothing = np.zeros(0, np.int32)
    empty = data.Encoded(nothing, nothing, np.zeros(1, int), nothing)
    text = message(data.batches, empty, size=4, widths=(8,), seed=0, pad=0)
    assert "got 4 and 0" in text
