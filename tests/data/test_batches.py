import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lora_jax import data
from lora_jax.data.tokenize import Encoded

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d"]


def message(call, *args, error: type[Exception] = ValueError, **keywords) -> str:
    with pytest.raises(error) as caught:
        call(*args, **keywords)
    return str(caught.value)


# Encoding


@pytest.fixture
def tokenizer():
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(12)
    return tokenizer


def examples(text, pair=None):
    return data.Examples(text, pair, np.arange(len(text), dtype=np.int32))


def rows(encoded, field="tokens"):
    return [
        part.tolist()
        for part in np.split(getattr(encoded, field), encoded.offsets[1:-1])
    ]


def test_encode_is_ragged_and_leaves_the_tokenizer_alone(tokenizer):
    before = tokenizer.to_str()
    encoded = data.encode(
        tokenizer, examples(["a", "a b c d a b", "zzz"]), max_length=5
    )
    assert rows(encoded) == [
        [1, 4, 2],
        [1, 4, 5, 6, 2],
        [1, 3, 2],
    ] and encoded.lengths.tolist() == [3, 5, 3]
    assert (
        encoded.tokens.dtype == encoded.segments.dtype == np.int32
        and encoded.label.tolist() == [0, 1, 2]
    )
    assert tokenizer.to_str() == before


def test_encode_reads_past_the_tokenizers_own_limit(tokenizer):
    assert data.encode(
        tokenizer, examples(["a " * 30]), max_length=20
    ).lengths.tolist() == [20]


def test_encode_pairs_cuts_the_longer_and_marks_the_second(tokenizer):
    encoded = data.encode(
        tokenizer, examples(["a b c d", "a"], ["a", "b"]), max_length=6
    )
    assert rows(encoded) == [[1, 4, 5, 2, 4, 2], [1, 4, 2, 5, 2]]
    assert rows(encoded, "segments") == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


def test_encode_in_chunks_is_encode(tokenizer, monkeypatch):
    whole = data.encode(
        tokenizer, examples(["a", "b c", "d", "a b c", "d d"]), max_length=4
    )
    monkeypatch.setattr("lora_jax.data.tokenize.CHUNK", 2)
    np.testing.assert_equal(
        data.encode(
            tokenizer, examples(["a", "b c", "d", "a b c", "d d"]), max_length=4
        ),
        whole,
    )


def test_encode_refuses_no_room_and_no_tokens(tokenizer):
    assert "expected max_length 3 or more" in message(
        data.encode, tokenizer, examples(["a"]), max_length=2
    )
    assert "expected max_length 5 or more" in message(
        data.encode, tokenizer, examples(["a"], ["b"]), max_length=4
    )
    tokenizer.post_processor = processors.Sequence([])
    text = message(data.encode, tokenizer, examples(["a", " "]), max_length=4)
    assert (
        text == "example 1 (' ') has no tokens; expected one or more in every example"
    )


# Batches


def padding(batches):
    """Padding tokens computed for each real token; those of fill rows count too."""
    computed = 0
    real = 0
    for batch in batches:
        computed += batch.tokens.size
        real += batch.length[batch.index >= 0].sum()
    return computed / real - 1


def ragged(lengths):
    offsets = np.cumsum([0, *lengths])
    tokens = np.concatenate(
        [np.full(length, i + 1, np.int32) for i, length in enumerate(lengths)]
    )
    return Encoded(tokens, tokens % 2, offsets, np.arange(len(lengths), dtype=np.int32))


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [
        (5, (5,)),
        (8, (8,)),
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
    assert steps[-1] == max_length and (np.diff(steps) > 0).all() and len(steps) < 40
    assert (steps[1:][steps[1:] > 64] / steps[:-1][steps[1:] > 64] <= 1.34).all()


def test_widths_refuse_0():
    assert "expected max_length of 1 or more, got 0" in message(data.widths, 0)


def test_a_batch_by_hand():
    (batch,) = data.batches(ragged([1, 3]), size=3, widths=(2, 4, 8), seed=None, pad=9)
    assert batch.tokens.tolist() == [[1, 9, 9, 9], [2, 2, 2, 9], [1, 9, 9, 9]]
    assert batch.segments.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert batch.length.tolist() == [1, 3, 1] and batch.weight.tolist() == [1, 1, 0]
    assert batch.index.tolist() == [0, 1, -1] and batch.label.tolist() == [0, 1, 0]
    assert [array.dtype for array in batch] == [np.int32] * 4 + [np.float32, np.int32]


def test_padding_counts_fill_rows():
    # 3 rows of 4 tokens are computed for 1 + 3 real ones.
    assert (
        padding(data.batches(ragged([1, 3]), size=3, widths=(4,), seed=None, pad=0))
        == 2.0
    )


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=300),
    size=st.integers(1, 9),
    seed=st.none() | st.integers(0, 2**40),
    epoch=st.integers(0, 5),
)
def test_every_row_is_seen_exactly_once(lengths, size, seed, epoch):
    encoded, widths = ragged(lengths), data.widths(max(lengths))
    batches = list(
        data.batches(encoded, size=size, widths=widths, seed=seed, epoch=epoch, pad=0)
    )
    assert len(batches) == -(-len(lengths) // size)
    index = np.concatenate([batch.index for batch in batches])
    assert sorted(index[index >= 0]) == list(range(len(lengths)))
    for batch in batches:
        real = batch.index >= 0
        assert batch.tokens.shape == (
            size,
            min(w for w in widths if w >= batch.length.max()),
        )
        assert (batch.weight == real).all() and (batch.length > 0).all()
        assert (batch.length[real] == encoded.lengths[batch.index[real]]).all()
        inside = np.arange(batch.tokens.shape[1]) < batch.length[:, None]
        assert (batch.tokens == np.where(inside, batch.label[:, None] + 1, 0)).all()


def order(seed, epoch=0, n=1000):
    lengths = np.random.default_rng(0).integers(1, 65, n)
    found = data.batches(
        ragged(lengths), size=8, widths=data.widths(64), seed=seed, epoch=epoch, pad=0
    )
    return np.concatenate([batch.index for batch in found])


def test_order_is_a_pure_function_of_seed_and_epoch():
    np.random.seed(7)
    untouched = np.random.rand()
    np.random.seed(7)
    assert (order(0) == order(0)).all() and np.random.rand() == untouched
    different = [order(0), order(0, 1), order(1), order(1, 1), order(None)]
    assert all((a != b).any() for i, a in enumerate(different) for b in different[:i])
    assert (order(None) == order(None, 3)).all()


def test_training_batches_are_grouped_by_length_but_not_sorted():
    lengths = np.random.default_rng(0).integers(1, 65, 1000)
    keywords = {"size": 8, "widths": data.widths(64), "pad": 0}
    found = list(data.batches(ragged(lengths), seed=0, **keywords))
    assert padding(found) < 0.2
    assert (np.diff([batch.length.max() for batch in found]) < 0).any()
    assert padding(data.batches(ragged(lengths), seed=None, **keywords)) < 0.2


def test_batches_refuse_what_does_not_fit():
    text = message(data.batches, ragged([1, 9]), size=2, widths=(4, 8), seed=0, pad=0)
    assert text == "expected rows of at most 8 tokens, the widest width, got 9"
    assert "got 0 and 1" in message(
        data.batches, ragged([1]), size=0, widths=(8,), seed=0, pad=0
    )
    empty = Encoded(
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
        np.zeros(1, int),
        np.zeros(0, np.int32),
    )
    assert "got 4 and 0" in message(
        data.batches, empty, size=4, widths=(8,), seed=0, pad=0
    )
