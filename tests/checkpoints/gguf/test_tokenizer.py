"""The ids of a GGUF file's tokenizer are llama.cpp's: byte-level BPE, sentencepiece."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.checkpoints.gguf import file as files
from lora_jax.checkpoints.gguf.tokenizer import build_tokenizer
from tests.checkpoints.gguf.published import IDS, read_smollm2

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BYTES = {f"<0x{i:02X}>": BYTE for i in range(256)}
LETTERS = "abcdefghijklmnopqrstuvwxyzĠĊ"


def file(**facts: Any) -> files.File:
    metadata = {f"tokenizer.ggml.{name}": value for name, value in facts.items()}
    return files.File(metadata, {})


def byte_level(
    *merges: str, types: dict[str, int] | None = None, **facts: Any
) -> files.File:
    """Of the letters, what the merges make of them, and the tokens in `types`."""
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = dict.fromkeys([*LETTERS, *merged], NORMAL)
    tokens |= types or {}
    defaults = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": list(tokens),
        "token_type": list(tokens.values()),
        "merges": list(merges),
    }
    return file(**defaults | facts)


def sentencepiece(scores: dict[str, float], **facts: Any) -> files.File:
    """Of <unk>, <s>, </s>, the bytes, then the tokens in `scores`."""
    types = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    types |= BYTES
    types |= dict.fromkeys(scores, NORMAL)
    defaults = {
        "model": "llama",
        "tokens": list(types),
        "token_type": list(types.values()),
        "scores": [scores.get(token, 0.0) for token in types],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return file(**defaults | facts)


def tokens_of(gguf_file: files.File, text: str) -> list[str]:
    return build_tokenizer(gguf_file).encode(text).tokens


def error_of(gguf_file: files.File) -> str:
    with pytest.raises(ValueError) as caught:
        build_tokenizer(gguf_file)
    return str(caught.value)


@pytest.mark.parametrize(
    "pre, pieces",
    [
        ("gpt-2", "They|'ll| pay| 1234| <=| x|²|!|\n\n | ok"),
        ("smollm", "They|'ll| pay| |1|2|3|4| <=| x|²|!|\n\n | ok"),
        ("default", "They|'|ll| pay| |123|4| |<=| x|²|!|\n\n | ok"),
        ("llama-bpe", "They|'ll| pay| |123|4| <=| x|²|!\n\n| | ok"),
        ("qwen2", "They|'ll| pay| |1|2|3|4| <=| x|²|!\n\n| | ok"),
    ],
)
def test_how_a_text_is_split(pre, pieces):
    text = pieces.replace("|", "")
    splitter: Any = build_tokenizer(byte_level(pre=pre, bos_token_id=0)).pre_tokenizer
    parts = []
    for _, (start, end) in splitter.pre_tokenize_str(text):
        parts.append(text[start:end])
    assert parts == pieces.split("|")


def test_a_file_that_names_no_split():
    gguf_file = byte_level()
    del gguf_file.metadata["tokenizer.ggml.pre"]
    named = byte_level(pre="default")
    assert build_tokenizer(gguf_file).to_str() == build_tokenizer(named).to_str()


def test_merges_go_by_their_order():
    gguf_file = byte_level("b c", "a b", "Ġ a")
    assert tokens_of(gguf_file, "abc ab a") == ["a", "bc", "Ġ", "ab", "Ġa"]
    gguf_file = byte_level("a b", "b c", "ab c")
    assert tokens_of(gguf_file, "abc abd") == ["abc", "Ġ", "ab", "d"]


def test_llama_3_takes_a_piece_that_is_a_token():
    # Even one that no merges lead to.
    types = {"abc": NORMAL}
    assert tokens_of(byte_level("b c", types=types), "abc") == ["a", "bc"]
    gguf_file = byte_level("b c", types=types, pre="llama-bpe", add_bos_token=False)
    assert tokens_of(gguf_file, "abc") == ["abc"]


def test_qwen2_composes_characters():
    # As Qwen2's own tokenizer does: é as one character, and as e with an accent.
    composed, parts = "\u00e9", "e\u0301"
    types = dict.fromkeys("Ã©Ìģ", NORMAL)
    qwen2 = byte_level(types=types, pre="qwen2")
    assert tokens_of(qwen2, parts) == tokens_of(qwen2, composed) == list("Ã©")
    assert tokens_of(byte_level(types=types, pre="gpt-2"), parts) == list("eÌģ")


def test_control_and_user_defined_tokens_stay_whole():
    types = {"<|end|>": CONTROL, "a a": USER_DEFINED}
    tokenizer = build_tokenizer(byte_level(types=types))
    row = tokenizer.encode("b<|end|>a a b")
    assert row.tokens == ["b", "<|end|>", "a a", "Ġ", "b"]
    assert row.ids == [1, len(LETTERS), len(LETTERS) + 1, LETTERS.index("Ġ"), 1]
    assert tokenizer.decode(row.ids) == "ba a b"
    assert tokenizer.decode(row.ids, skip_special_tokens=False) == "b<|end|>a a b"


def test_ids_are_the_file_s():
    added = {"<|end|>": CONTROL, "x y": USER_DEFINED}
    for gguf_file in (
        byte_level("b c", types=added),
        sentencepiece({"a": 0, "b": -1}),
    ):
        tokens = gguf_file.metadata["tokenizer.ggml.tokens"]
        ids = {token: i for i, token in enumerate(tokens)}
        tokenizer = build_tokenizer(gguf_file)
        assert tokenizer.get_vocab(with_added_tokens=True) == ids


@pytest.mark.parametrize(
    "facts, single, pair",
    [
        ({}, "a", "ab"),
        ({"add_bos_token": True}, "^a", "^a^b"),
        ({"add_eos_token": True}, "a$", "a$b$"),
        ({"add_bos_token": True, "add_eos_token": True}, "^a$", "^a$^b$"),
        ({"pre": "llama-bpe"}, "^a", "^a^b"),
        ({"pre": "llama-bpe", "add_bos_token": False}, "a", "ab"),
    ],
)
def test_tokens_at_the_start_and_end(facts, single, pair):
    ends = {"^": CONTROL, "$": CONTROL}
    bos, eos = len(LETTERS), len(LETTERS) + 1
    tokenizer = build_tokenizer(
        byte_level(types=ends, bos_token_id=bos, eos_token_id=eos, **facts)
    )
    row = tokenizer.encode("a", "b")
    assert (
        "".join(tokenizer.encode("a").tokens) == single and "".join(row.tokens) == pair
    )
    assert row.type_ids == [0] * len(single) + [1] * (len(pair) - len(single))
    assert "".join(tokenizer.encode("a", add_special_tokens=False).tokens) == "a"


def best_first(text: str, scores: dict[str, float]) -> list[str]:
    """sentencepiece's BPE, written as it is defined.

    Of all neighbors that make a token, those are joined that make the best one; of
    several best ones the first.
    """
    pieces = list(text)
    while True:
        joined = [left + right for left, right in pairwise(pieces)]
        known = [place for place, token in enumerate(joined) if token in scores]
        if not known:
            break
        best = max(known, key=lambda place: (scores[joined[place]], -place))
        pieces[best : best + 2] = [joined[best]]

    # What is left and no token is written as bytes.
    tokens = []
    for piece in pieces:
        if piece in scores:
            tokens.append(piece)
        else:
            tokens += [f"<0x{byte:02X}>" for byte in piece.encode()]
    return tokens


LONGER = st.lists(st.text("ab▁", min_size=2, max_size=4), max_size=12)


@settings(max_examples=200, deadline=None)
@given(LONGER, st.text("aabb cé", max_size=12), st.randoms(use_true_random=False))
def test_the_best_token_first(longer, text, random):
    tokens = list(dict.fromkeys(["a", "b", "▁", *longer]))
    scores = dict(zip(tokens, random.sample(range(-100, 0), len(tokens)), strict=True))
    expected = best_first("▁" + text.replace(" ", "▁"), scores) if text else []
    tokenizer = build_tokenizer(sentencepiece(scores))
    row = tokenizer.encode(text)
    assert row.tokens == ["<s>", *expected]
    assert tokenizer.decode(row.ids) == text


def test_without_a_space_before():
    scores = {"▁": -2.0, "a": -3.0, "▁a": -1.0}
    assert tokens_of(sentencepiece(scores), "a a") == ["<s>", "▁a", "▁a"]
    tokenizer = build_tokenizer(sentencepiece(scores, add_space_prefix=False))
    assert tokenizer.encode("a a").tokens == ["<s>", "a", "▁a"]
    assert tokenizer.decode(tokenizer.encode(" a").ids) == " a"


def test_merges_of_the_file_go_before_scores():
    scores = {"a": 0.0, "b": 0.0, "ab": 0.0, "ba": 0.0}
    tokenizer = build_tokenizer(
        sentencepiece(scores, merges=["b a", "a b"], add_space_prefix=False)
    )
    assert tokenizer.encode("aba").tokens == ["<s>", "a", "ba"]


def test_another_model_or_split():
    start = "a tokenizer that cannot be read from this GGUF file:\n  "
    assert (
        error_of(file(model="bert"))
        == f"{start}tokenizer.ggml.model: expected one of gpt2, llama, got 'bert'"
    )
    splits = "default, gpt-2, smollm, llama-bpe, qwen2"
    assert (
        error_of(byte_level(pre="tekken"))
        == f"{start}tokenizer.ggml.pre: expected one of {splits}, got 'tekken'"
    )


def test_fields_that_are_missing():
    assert error_of(file(model="gpt2")).splitlines()[1:] == [
        "  tokenizer.ggml.tokens: expected a list, got None",
        "  tokenizer.ggml.token_type: expected a list, got None",
        "  tokenizer.ggml.merges: expected a list, got None",
    ]
    gguf_file = sentencepiece({})
    del gguf_file.metadata["tokenizer.ggml.scores"]
    assert error_of(gguf_file).endswith(
        "tokenizer.ggml.scores: expected a list, got None"
    )


def test_fields_that_do_not_fit():
    gguf_file = byte_level("a b", "a c", types={"ab": NORMAL})
    gguf_file.metadata["tokenizer.ggml.tokens"][-1] = "ab"
    gguf_file.metadata["tokenizer.ggml.merges"].append("abc")
    gguf_file.metadata["tokenizer.ggml.token_type"] = [1]
    # An end without an id, and one with an id past the last.
    gguf_file.metadata["tokenizer.ggml.add_bos_token"] = True
    gguf_file.metadata["tokenizer.ggml.add_eos_token"] = True
    gguf_file.metadata["tokenizer.ggml.eos_token_id"] = 30
    assert error_of(gguf_file).splitlines()[1:] == [
        "  tokenizer.ggml.token_type: expected 30 as there are tokens, got 1",
        "  tokenizer.ggml.tokens: expected each once, got 2 of 'ab'",
        "  tokenizer.ggml.bos_token_id: expected a token's number below 30, got None",
        "  tokenizer.ggml.eos_token_id: expected a token's number below 30, got 30",
        "  tokenizer.ggml.merges: expected two tokens that make a third, got 'a c'",
        "  tokenizer.ggml.merges: expected two tokens that make a third, got 'abc'",
    ]
    assert error_of(sentencepiece({}, unknown_token_id=-1)).endswith(
        "unknown_token_id: expected a token's number below 259, got -1"
    )


@pytest.mark.real
def test_a_published_model():
    tokenizer = build_tokenizer(files.read(read_smollm2()))
    assert tokenizer.get_vocab_size() == 49_152
    for text, ids in IDS.items():
        assert tokenizer.encode(text).ids == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
