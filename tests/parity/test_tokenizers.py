"""Tokens of plain vocabulary files, against transformers' on a list of directories."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from lora_jax import models

transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["uber", "über", "schon", "schön", "das", "ist", "中", "文", "中文"]
PIECES = [*SPECIAL, *WORDS, "a", "##b", "é", "e", "the", "<x>"]
BERT_TEXTS = ("Über das schön ist", "中文 ist é", "ab <x> das")

BERT_SETTINGS = [
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
]

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["t h", "th e", "Ġ t", "Ġ the"]
BYTES = [*LETTERS, "th", "the", "Ġt", "Ġthe", "<|endoftext|>"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", *BYTES, "<mask>"]
BYTE_TEXTS = ("the the", " the", "é the <|endoftext|> t", "the<mask> the")


def write(folder: Path, settings: dict, model_type: str, added: dict) -> None:
    """The settings, and what tells transformers the kind of tokenizer."""
    classes = {"bert": "Bert", "roberta": "Roberta", "gpt2": "GPT2"}
    kind = {"tokenizer_class": f"{classes[model_type]}Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**kind, **settings}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if added:
        (folder / "added_tokens.json").write_text(json.dumps(added))


def write_bytes(folder: Path, vocabulary: list[str], merges: list[str]) -> None:
    ids = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")


def assert_same_tokens(folder: Path, texts: tuple[str, ...]) -> None:
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder)
    ours = models.load_tokenizer(folder)
    for text in texts:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text


@pytest.mark.parametrize("settings", BERT_SETTINGS, ids=str)
@pytest.mark.parametrize("added", [{}, {"<new>": len(PIECES)}], ids=["plain", "added"])
def test_wordpieces(settings, added, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    write(tmp_path, settings, "bert", added)
    assert_same_tokens(tmp_path, (*BERT_TEXTS, "das <new> ist"))


@pytest.mark.parametrize("version", [[], ["#version: 0.2"]], ids=["bare", "version"])
@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}], ids=str)
@pytest.mark.parametrize("model_type", ["gpt2", "roberta"])
def test_byte_pairs(version, settings, model_type, tmp_path):
    vocabulary = BYTES if model_type == "gpt2" else ROBERTA
    write_bytes(tmp_path, vocabulary, [*version, *MERGES])
    write(tmp_path, settings, model_type, {"<new>": len(vocabulary)})
    assert_same_tokens(tmp_path, (*BYTE_TEXTS, "the <new> the"))
