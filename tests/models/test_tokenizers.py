"""Tokenizers of plain vocabulary files: their settings, and what is refused.

`tests/parity/test_tokenizers.py` compares tokens with transformers'.
"""

from typing import Any

import pytest

from lora_jax.models import tokenizers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "über", "uber", "das"]
VOCABULARY = "\n".join(WORDS) + "\n"
BYTES = {"t": 0, "h": 1, "th": 2, "Ġ": 3, "<|endoftext|>": 4}


def tokens(tokenizer, text):
    return tokenizer.encode(text).tokens


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "uber"),
        ({"strip_accents": False}, "über"),
        ({"do_lower_case": False}, "[UNK]"),
        ({"strip_accents": None}, "uber"),
    ],
)
def test_accents_and_capitals(settings, expected):
    tokenizer = tokenizers.wordpiece(VOCABULARY, settings, {})
    assert tokens(tokenizer, "Über das") == ["[CLS]", expected, "das", "[SEP]"]


def test_special_tokens_may_have_other_names():
    vocabulary = "<p>\n<u>\n<c>\n<e>\ndas\n"
    names = {"cls_token": {"content": "<c>"}, "sep_token": "<e>", "unk_token": "<u>"}
    tokenizer = tokenizers.wordpiece(vocabulary, names, {})
    assert tokens(tokenizer, "das neue") == ["<c>", "das", "<u>", "<e>"]


def test_merges_need_no_version():
    for first_line in ("", "#version: 0.2\n"):
        tokenizer = tokenizers.byte_level(BYTES, f"{first_line}t h\n", {}, {})
        assert tokens(tokenizer, "th") == ["th"]


def test_a_bos_token_and_a_space_before_the_text():
    settings = {"add_bos_token": True, "add_prefix_space": True}
    tokenizer = tokenizers.byte_level(BYTES, "t h\n", settings, {})
    assert tokens(tokenizer, "th") == ["<|endoftext|>", "Ġ", "th"]


def test_added_tokens_are_whole():
    tokenizer = tokenizers.byte_level(BYTES, "t h\n", {}, {"<new>": 5})
    assert tokenizer.encode("th<new>").ids == [2, 5]


BAD = {
    "do_lower_case is 'yes', expected true or false": {"do_lower_case": "yes"},
    "do_basic_tokenize is false, expected true": {"do_basic_tokenize": False},
    "cls_token is 7, expected a token": {"cls_token": 7},
    "missing: [BOS]": {"cls_token": "[BOS]"},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_of_another_kind_are_refused(message):
    with pytest.raises(ValueError) as error:
        tokenizers.wordpiece(VOCABULARY, BAD[message], {})
    assert message in str(error.value)


def test_ids_that_are_none_are_refused():
    ids: list[Any] = [2**40, -1, "0", None]
    for index in ids:
        with pytest.raises(ValueError, match=r"vocab\.json: expected a token id"):
            tokenizers.byte_level({"t": index}, "", {}, {})
    text = "added_tokens.json: expected '<new>' to have the id 5, .*got 9"
    with pytest.raises(ValueError, match=text):
        tokenizers.byte_level(BYTES, "t h\n", {}, {"<new>": 9})
    with pytest.raises(ValueError, match=r"merges\.txt, line 2: expected two tokens"):
        tokenizers.byte_level(BYTES, "t h\nt\n", {}, {})
