"""Tokens of a tokenizer.json and the settings beside it are transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
    processors,
)

from tests.parity.test_tokenizers import (
    BERT_TEXTS,
    BYTE_TEXTS,
    BYTES,
    MERGES,
    PIECES,
    ROBERTA,
    assert_same_tokens,
    write,
    write_bytes,
)

GENERAL = {"tokenizer_class": "PreTrainedTokenizerFast"}
NEW_TEXTS = ("das<new>ist", "the <NEW> the", "a[PAD]the <new>")
NEW = dict(
    content="<new>",
    lstrip=False,
    rstrip=False,
    normalized=False,
    single_word=False,
    special=True,
)
NAMED: list[dict[str, Any]] = [
    {"pad_token": "[PAD]"},
    {"additional_special_tokens": ["<new>", "[PAD]"]},
    {"bos_token": "<new>", "pad_token": {**NEW, "content": "[PAD]", "lstrip": True}},
]
BERT_SETTINGS: list[dict[str, Any]] = [
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
    {"do_lower_case": False, **GENERAL},
]
BYTE_SETTINGS: list[dict[str, Any]] = [
    {"add_prefix_space": True},
    {"add_prefix_space": True, **GENERAL},
    {"add_bos_token": True, "bos_token": "<|endoftext|>"},
    {"add_bos_token": False, "add_eos_token": True},
    {"model_max_length": 2, "padding_side": "left"},
]
PLAIN_SETTINGS: list[dict[str, Any]] = [
    {"add_bos_token": True, "add_eos_token": True},
    {"add_eos_token": True},
    {"add_bos_token": True, "bos_token": "the"},
    {"unk_token": "the"},
]


def save_bert(folder: Path, *, lowercase: bool) -> None:
    ids = {word: index for index, word in enumerate(PIECES)}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=lowercase)
    tokenizer.save(str(folder / "tokenizer.json"))


def save_bytes(folder: Path, model_type: str) -> None:
    vocabulary = ROBERTA if model_type == "roberta" else BYTES
    ids = {token: index for index, token in enumerate(vocabulary)}
    pairs = [tuple(merge.split()) for merge in MERGES]
    bpe = ByteLevelBPETokenizer(ids, pairs)
    tokenizer = Tokenizer.from_str(bpe.to_str())
    if model_type == "roberta":
        tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
        )
    else:
        tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("settings", BERT_SETTINGS, ids=str)
def test_case_and_accents(settings, lowercase, tmp_path):
    save_bert(tmp_path, lowercase=lowercase)
    write(tmp_path, settings, "bert", {})
    assert_same_tokens(tmp_path, BERT_TEXTS)


@pytest.mark.parametrize("settings", BYTE_SETTINGS, ids=str)
@pytest.mark.parametrize("model_type", ["gpt2", "roberta"])
def test_spaces_and_ends(settings, model_type, tmp_path):
    save_bytes(tmp_path, model_type)
    write(tmp_path, settings, model_type, {})
    assert_same_tokens(tmp_path, BYTE_TEXTS)


@pytest.mark.parametrize("settings", NAMED, ids=str)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "plain bert", "plain gpt2"])
def test_tokens_that_are_named(settings, file, kind, tmp_path):
    if kind == "bert":
        save_bert(tmp_path, lowercase=True)
    elif kind == "gpt2":
        save_bytes(tmp_path, "gpt2")
    elif kind == "plain bert":
        (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    else:
        write_bytes(tmp_path, BYTES, MERGES)
    is_config = file == "tokenizer_config.json"
    if is_config and isinstance(settings.get("pad_token"), dict):
        # transformers asks for it in this file.
        marked = {"__type": "AddedToken", **settings["pad_token"]}
        settings = {**settings, "pad_token": marked}
    write(tmp_path, settings if is_config else {}, kind.removeprefix("plain "), {})
    if not is_config:
        (tmp_path / file).write_text(json.dumps(settings))
    assert_same_tokens(tmp_path, NEW_TEXTS)


@pytest.mark.parametrize("listed", [False, True])
def test_tokens_that_were_added(listed, tmp_path):
    save_bert(tmp_path, lowercase=True)
    index = len(PIECES)
    decoder = {"added_tokens_decoder": {str(index): NEW}}
    write(tmp_path, decoder if listed else {}, "bert", {"<new>": index})
    assert_same_tokens(tmp_path, NEW_TEXTS)


@pytest.mark.parametrize("settings", PLAIN_SETTINGS, ids=str)
@pytest.mark.parametrize("vocabulary", [BYTES, ROBERTA], ids=["gpt2", "with <s>"])
def test_ends_of_plain_files_of_gpt2(settings, vocabulary, tmp_path):
    """Whose tokenizer it is says its class, not the vocabulary."""
    write_bytes(tmp_path, vocabulary, MERGES)
    write(tmp_path, settings, "gpt2", {})
    assert_same_tokens(tmp_path, BYTE_TEXTS)


def test_ends_of_plain_files_of_roberta(tmp_path):
    write_bytes(tmp_path, ROBERTA, MERGES)
    write(tmp_path, {"cls_token": "the", "sep_token": "Ġt"}, "roberta", {})
    assert_same_tokens(tmp_path, BYTE_TEXTS)
