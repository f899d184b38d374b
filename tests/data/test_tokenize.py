"""Token ids: rows without padding, of labeled texts and of sources with targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from lora_jax import data
from lora_jax.data.tokenize import leading_tokens
from lora_jax.models import load_tokenizer
from tests.data.files import message, pairs, shared

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d"]
END, START = 0, 1
FOUR = data.Examples(["b", "a", "b", "c"], ["1", "2", "3", "4"], np.zeros(4, np.int32))
TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@pytest.fixture
def words():
    """A token a word between [CLS] and [SEP], as BERT's; padded and cut to 12."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(12)
    return tokenizer


@pytest.fixture(scope="module")
def characters():
    """Every byte a token; 0 is <end>, which its template puts after a text, 1 <start>."""
    letters = ["<end>", "<start>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<start>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A <end>", special_tokens=[("<end>", 0)]
    )
    return tokenizer


def examples(text, pair=None):
    return data.Examples(text, pair, np.arange(len(text), dtype=np.int32))


def rows(encoded, field="tokens"):
    """The tokens, or another field, of each row."""
    parts = np.split(getattr(encoded, field), encoded.offsets[1:-1])
    return [part.tolist() for part in parts]


# Labeled texts


def test_encode_is_ragged_and_leaves_the_tokenizer_alone(words):
    before = words.to_str()
    texts = ["a", "a b c d a b", "zzz"]
    encoded = data.encode(words, examples(texts), max_length=5)
    assert rows(encoded) == [[1, 4, 2], [1, 4, 5, 6, 2], [1, 3, 2]]
    assert encoded.lengths.tolist() == [3, 5, 3]
    assert encoded.tokens.dtype == encoded.segments.dtype == np.int32
    assert encoded.label.tolist() == [0, 1, 2]
    assert words.to_str() == before


def test_encode_reads_past_the_tokenizers_own_limit(words):
    encoded = data.encode(words, examples(["a " * 30]), max_length=20)
    assert encoded.lengths.tolist() == [20]


def test_encode_cuts_the_longer_text_of_a_pair_and_marks_the_second(words):
    texts = examples(["a b c d", "a"], ["a", "b"])
    encoded = data.encode(words, texts, max_length=6)
    assert rows(encoded) == [[1, 4, 5, 2, 4, 2], [1, 4, 2, 5, 2]]
    assert rows(encoded, "segments") == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


def test_encode_in_chunks_is_encode(words, monkeypatch):
    texts = examples(["a", "b c", "d", "a b c", "d d"])
    at_once = data.encode(words, texts, max_length=4)
    monkeypatch.setattr("lora_jax.data.tokenize.CHUNK", 2)
    in_chunks = data.encode(words, texts, max_length=4)
    np.testing.assert_equal(in_chunks, at_once)


def test_encode_refuses_no_room_and_no_tokens(words):
    text = message(data.encode, words, examples(["a"]), max_length=2)
    assert "expected max_length 3 or more" in text
    text = message(data.encode, words, examples(["a"], ["b"]), max_length=4)
    assert "expected max_length 5 or more" in text
    # Without special tokens a blank text has no tokens.
    words.post_processor = processors.Sequence([])
    text = message(data.encode, words, examples(["a", " "]), max_length=4)
    assert text == (
        "example 1 (' ') has no tokens; expected one or more in every example"
    )


# Sources and targets


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    separator=st.sampled_from(["\n", " => "]),
)
@pytest.mark.parametrize("start", [None, START])
def test_rows_decode_to_their_texts_and_segments_mark_the_target(
    characters, texts, separator, start
):
    sources = [source for source, _ in texts]
    targets = [target for _, target in texts]
    options = {"max_length": 10**6, "start": start, "separator": separator}
    encoded = data.encode_pairs(
        characters, examples(sources, targets), end=END, **options
    )
    prompts = data.encode_prompts(characters, sources, **options)
    assert encoded.tokens.dtype == encoded.segments.dtype == np.int32
    assert encoded.offsets.dtype == np.int64

    def decode(tokens):
        return characters.decode(tokens, skip_special_tokens=False)

    beginning = [] if start is None else [start]
    for i, (source, target) in enumerate(texts):
        place = slice(*encoded.offsets[i : i + 2])
        row = encoded.tokens[place]
        segments = encoded.segments[place]
        prompt = prompts[i]
        # The prompt is exactly how the row begins.
        assert row[segments == 0].tolist() == prompt
        assert sorted(segments) == segments.tolist()
        assert prompt[: len(beginning)] == beginning
        assert decode(prompt[len(beginning) :]) == source + separator
        assert row[-1] == END
        assert segments[-1] == 1
        assert decode(row[segments == 1][:-1].tolist()) == target


def test_a_text_that_spells_the_end_token_does_not_end_the_row(characters):
    spelled = FOUR._replace(pair=["<end>x"] * 4)
    encoded = data.encode_pairs(characters, spelled, max_length=9, end=END)
    assert (encoded.tokens == END).sum() == 4
    assert encoded.lengths.tolist() == [9] * 4


def test_the_tokenizers_own_truncation_and_padding_are_ignored(characters):
    limited = Tokenizer.from_str(characters.to_str())
    limited.enable_truncation(1)
    limited.enable_padding(length=30)
    prompts = data.encode_prompts(limited, ["abc"], max_length=4)
    assert prompts == data.encode_prompts(characters, ["abc"], max_length=4)
    assert (limited.truncation or {})["max_length"] == 1
    assert (limited.padding or {})["length"] == 30


def test_long_rows_are_refused(characters):
    long = FOUR._replace(pair=["1", "12345", "1234", "1"])
    text = message(data.encode_pairs, characters, long, max_length=6, end=END)
    assert text.startswith(
        "2 of 4 rows are longer than max_length 6: the longest, 'a', has 8 tokens; "
        "raise max_length"
    )
    text = message(data.encode_prompts, characters, ["ab", "abc"], max_length=3)
    assert "1 of 2 rows are longer than max_length 3" in text


def test_blank_rows_are_refused(characters):
    blank = FOUR._replace(pair=["1", " ", "", "1"])
    text = message(data.encode_pairs, characters, blank, max_length=9, end=END)
    assert "row 1: expected a target, got ' '" in text
    assert "row 2: expected a target, got ''" in text
    text = message(data.encode_prompts, characters, ["a", ""], max_length=9)
    assert "row 1: expected a source, got ''" in text
    alone = FOUR._replace(pair=None)
    text = message(data.encode_pairs, characters, alone, max_length=9, end=END)
    assert "texts alone" in text


def test_texts_without_tokens_are_refused():
    silent = Tokenizer(models.BPE({"a": 2}, []))
    options = {"max_length": 9, "end": END, "separator": ""}
    text = message(data.encode_pairs, silent, examples(["a"], ["b"]), **options)
    assert "row 0: the target 'b' has no tokens" in text


def test_encoded_rows_make_batches(characters):
    encoded = data.encode_pairs(characters, FOUR, max_length=8, end=END)
    batch = next(data.batches(encoded, size=4, widths=(8,), seed=None, pad=END))
    assert batch.segments.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]] * 4
    assert batch.label.tolist() == [0] * 4


def test_tokens_apart_are_those_of_the_joined_text():
    gpt2 = Tokenizer.from_file(str(shared("gpt2_tokenizer/tokenizer.json")))
    test = data.load("e2e", data_dir=shared("e2e")).splits["test"]
    encoded = data.encode_pairs(gpt2, test, max_length=256, end=50256)
    joined = [f"{source}\n{target}" for source, target in pairs(test)]
    expected = []
    for row in gpt2.encode_batch_fast(joined, add_special_tokens=False):
        expected += [*row.ids, 50256]
    assert encoded.tokens.tolist() == expected


def test_a_row_begins_with_the_bos_token_of_the_tokenizer():
    """Llama's and Mistral's post-processor puts one before a text, and maybe an end."""
    tokenizer = load_tokenizer("tiny-llama")
    bos = tokenizer.token_to_id("<|endoftext|>")
    assert leading_tokens(tokenizer) == []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<|endoftext|>", "$A", "<|endoftext|>"],
        pair=["$A", "$B:1"],
        special_tokens=[("<|endoftext|>", bos)],
    )
    examples = data.Examples(["name : X"], ["X is here"], np.zeros(1, np.int32))
    rows = data.encode_pairs(tokenizer, examples, max_length=64, end=bos)
    (prompt,) = data.encode_prompts(tokenizer, examples.text, max_length=64)
    plain = tokenizer.encode("name : X\n", add_special_tokens=False).ids
    assert prompt == [bos, *plain]
    assert rows.tokens[: len(prompt)].tolist() == prompt
    # The end token once, and an explicit start instead of the tokenizer's.
    assert (rows.tokens == bos).sum() == 2
    (other,) = data.encode_prompts(tokenizer, examples.text, max_length=64, start=7)
    assert other == [7, *plain]


def test_a_tokenizer_that_fails_at_a_text_is_named():
    # It has no token for unknown words, though it names one.
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    examples = data.Examples(["a", "b"], None, np.zeros(2, np.int32))
    text = (
        r"expected a tokenizer for any text, got an error \(WordLevel error: Missing "
        r"\[UNK\] token .*\) in a text from 'a' on; fetch its files again"
    )
    with pytest.raises(ValueError, match=text):
        data.encode(tokenizer, examples, max_length=8)
    with pytest.raises(ValueError, match="in a text from 'b"):
        data.encode_prompts(tokenizer, ["b"], max_length=8)
