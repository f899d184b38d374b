"""Settings beside a tokenizer.json: what they change, and what contradicts it.

`tests/parity/test_tokenizer_settings.py` compares tokens with transformers'.
"""

from typing import Any

import pytest
from tokenizers import BertWordPieceTokenizer, Tokenizer, normalizers
from tokenizers.models import BPE

from lora_jax.models.tokenizer_settings import (
    add_special_tokens,
    apply_settings,
    merge_settings,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "über", "uber", "Uber", "das"]
IDS = {word: index for index, word in enumerate(WORDS)}
NEW = {"content": "<new>", "special": True, "normalized": False}


def bert() -> Tokenizer:
    return Tokenizer.from_str(BertWordPieceTokenizer(IDS, lowercase=True).to_str())


def with_tokens(settings: dict[str, Any]) -> Tokenizer:
    tokenizer = bert()
    add_special_tokens(tokenizer, settings)
    return tokenizer


@pytest.mark.parametrize(
    "settings, token",
    [
        ({}, "uber"),
        ({"do_lower_case": None, "strip_accents": None}, "uber"),
        ({"strip_accents": False}, "über"),
        ({"do_lower_case": False, "strip_accents": True}, "Uber"),
        ({"do_lower_case": False}, "[UNK]"),
        ({"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, "[UNK]"),
        # This class takes a tokenizer.json as it is.
        ({"do_lower_case": False, "tokenizer_class": "TokenizersBackend"}, "uber"),
        ({"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}}, "uber"),
    ],
    ids=str,
)
def test_settings_go_before_the_normalizer(settings, token):
    tokenizer = apply_settings(bert(), settings)
    assert tokenizer.encode("Über das").tokens == ["[CLS]", token, "das", "[SEP]"]


@pytest.mark.parametrize(
    "settings, text",
    [
        (
            {"cls_token": "das", "sep_token": "uber"},
            r"cls_token is 'das', but tokenizer.json puts '\[CLS\]' there; "
            r"sep_token is 'uber', but tokenizer.json puts '\[SEP\]' there",
        ),
        (
            {"unk_token": "das"},
            r"unk_token is 'das', but tokenizer.json has '\[UNK\]' for unknown words",
        ),
        ({"do_lower_case": "yes"}, "do_lower_case is 'yes', expected true or false"),
        ({"cls_token": 7}, "cls_token is 7, expected a token"),
        ({"split_special_tokens": True}, "split_special_tokens is true, expected "),
    ],
)
def test_what_contradicts_the_tokenizer_is_named(settings, text):
    with pytest.raises(ValueError, match=f"^tokenizer_config.json: {text}"):
        apply_settings(bert(), settings)


def test_a_space_that_would_not_be_put_before_a_text():
    tokenizer = Tokenizer(BPE({"▁": 0}, []))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    apply_settings(tokenizer, {"add_prefix_space": True})
    with pytest.raises(ValueError, match="add_prefix_space is false, but tokenizer"):
        apply_settings(tokenizer, {"add_prefix_space": False})


@pytest.mark.parametrize(
    "settings, token_id",
    [
        ({"pad_token": "<new>"}, 9),
        ({"bos_token": "<bos>", "mask_token": "<new>", "pad_token": "<pad>"}, 11),
        ({"additional_special_tokens": ["<old>", "<new>"]}, 10),
        ({"extra_special_tokens": {"image": NEW}}, 9),
        ({"added_tokens_decoder": {"9": NEW}, "pad_token": "<new>"}, 9),
    ],
    ids=str,
)
def test_tokens_that_are_named_are_whole(settings, token_id):
    tokenizer = with_tokens(settings)
    assert tokenizer.encode("das<new>das").ids == [2, 8, token_id, 8, 3]
    assert tokenizer.decode([8, token_id]) == "das"


@pytest.mark.parametrize(
    "settings, text",
    [
        (
            {"added_tokens_decoder": {"12": NEW}},
            "added_tokens_decoder has '<new>' as 12, the tokenizer as 9",
        ),
        (
            {"added_tokens_decoder": {"9": {"id": 9}}},
            "added_tokens_decoder is {'id': 9}",
        ),
        ({"added_tokens_decoder": [NEW]}, r"added_tokens_decoder is \[{.*expected an "),
        ({"added_tokens_decoder": {"x": NEW}}, "added_tokens_decoder has the id 'x', "),
        (
            {"extra_special_tokens": "<new>"},
            "extra_special_tokens is '<new>', expected",
        ),
        ({"pad_token": ["<new>"]}, r"pad_token is \['<new>'\], expected a token"),
        ({"additional_special_tokens": [""]}, "additional_special_tokens is '', exp"),
    ],
)
def test_tokens_that_are_none_are_refused(settings, text):
    with pytest.raises(ValueError, match=f"^tokenizer_config.json: {text}"):
        with_tokens(settings)


def test_special_tokens_map_is_the_older_file():
    special = {"pad_token": "<pad>"}
    assert merge_settings({"pad_token": "<x>"}, special) == special
    listed = {"added_tokens_decoder": {}, "pad_token": "<x>"}
    assert merge_settings(listed, special) == listed
