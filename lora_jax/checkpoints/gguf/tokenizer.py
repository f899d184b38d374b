"""The tokenizer of a GGUF file, made from its metadata.

There are two models: byte-level BPE ("gpt2" in the metadata), and sentencepiece's BPE
with scores ("llama"). What the metadata mean:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
)
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from lora_jax.checkpoints.gguf.file import File
from lora_jax.checkpoints.gguf.splits import SPLITS
from lora_jax.checkpoints.gguf.tokenizer_fields import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    added_ends,
    read_fields,
)


def build_tokenizer(file: File) -> Tokenizer:
    """Return the tokenizer, with the file's ids and its tokens around a text.

    Raises:
        ValueError: another model or split than are known; fields that are missing or do
            not fit each other. All of them are named.
    """
    fields = read_fields(file)
    is_byte_level = fields["model"] == "gpt2"
    build = _byte_level if is_byte_level else _sentencepiece
    tokenizer = build(fields)

    # Tokens that a text is searched for before anything else. Special ones are left out
    # when ids are decoded.
    special = _tokens_of_types(fields, UNKNOWN, CONTROL)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(_tokens_of_types(fields, USER_DEFINED))
    ends = added_ends(fields)
    if ends:
        tokenizer.post_processor = _template(fields, ends)
    return tokenizer


def _tokens_of_types(fields: dict[str, Any], *types: int) -> list[AddedToken]:
    tokens = []
    for token, token_type in zip(fields["tokens"], fields["token_type"], strict=True):
        if token_type in types:
            tokens.append(AddedToken(token, normalized=False))
    return tokens


def _byte_level(fields: dict[str, Any]) -> Tokenizer:
    split = fields["pre"]
    # Llama 3 takes a piece that is a token, even if no merges lead to it.
    model = BPE(_ids(fields), _pairs(fields), ignore_merges=split == "llama-bpe")
    tokenizer = Tokenizer(model)
    # As in Qwen2's own tokenizer.json; llama.cpp leaves it out.
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()

    # A split leaves pieces, and the next one splits each of them further.
    steps: list[Any] = []
    for expression in SPLITS[split]:
        steps.append(pre_tokenizers.Split(Regex(expression), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(fields: dict[str, Any]) -> Tokenizer:
    # Converters have written a tokenizer.json's merges with made-up scores (gguf's
    # LlamaHfVocab): merges come first.
    pairs = _pairs(fields) if "merges" in fields else _pairs_of_scores(fields)
    model = BPE(
        _ids(fields),
        pairs,
        unk_token=fields["tokens"][fields["unknown_token_id"]],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)

    # Spaces are letters of their own, one is put before the text, and taken off again.
    spaces = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if fields.get("add_space_prefix", True):
        spaces = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _ids(fields: dict[str, Any]) -> dict[str, int]:
    # A token's place in the list is its id.
    return {token: i for i, token in enumerate(fields["tokens"])}


def _pairs(fields: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for merge in fields["merges"]:
        # No token has a space: "Ġ" or "▁" stand for it.
        left, right = merge.split(" ")
        pairs.append((left, right))
    return pairs


def _pairs_of_scores(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Return all ways to make a token of two, those of the best token first."""
    scores = {}
    columns = (fields["tokens"], fields["scores"], fields["token_type"])
    for token, score, token_type in zip(*columns, strict=True):
        # Bytes and control tokens are never made of others.
        if token_type in (NORMAL, USER_DEFINED):
            scores[token] = score

    pairs = []
    for token in sorted(scores, key=scores.__getitem__, reverse=True):
        for i in range(1, len(token)):
            left, right = token[:i], token[i:]
            if left in scores and right in scores:
                pairs.append((left, right))
    return pairs


def _template(fields: dict[str, Any], ends: list[str]) -> TemplateProcessing:
    """Return what puts the tokens at the ends of a text, or of each of two texts."""
    first = ["$A"]
    second = ["$B:1"]
    # "bos" stands before a text, "eos" after it; `:1` is the second text's segment.
    if "bos" in ends:
        first.insert(0, "bos")
        second.insert(0, "bos:1")
    if "eos" in ends:
        first.append("eos")
        second.append("eos:1")

    special = []
    for end in ends:
        token_id = fields[f"{end}_token_id"]
        token = fields["tokens"][token_id]
        special.append({"id": end, "ids": [token_id], "tokens": [token]})
    return TemplateProcessing(
        single=first,
        pair=first + second,
        special_tokens=special,
    )
