"""Tokenizers from plain vocabulary files, for checkpoints without a tokenizer.json.

Their settings are those of tokenizer_config.json, as transformers reads them; tokens
that were added to the vocabulary later are in added_tokens.json.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
)
from tokenizers.processors import ByteLevel, RobertaProcessing, TemplateProcessing

from lora_jax.models.tokenizer_trial import check_id

# RoBERTa's and GPT-2's special tokens. <mask> takes the space before it as well.
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_TOKEN = "<mask>"
GPT2_TOKENS = ("<|endoftext|>",)
# BERT's, by their names in tokenizer_config.json.
BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "cls_token": "[CLS]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
# true, false, or null, which follows do_lower_case.
BERT_FLAGS = {
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "do_basic_tokenize": True,
}
BYTE_FLAGS = {"add_prefix_space": False, "add_bos_token": False}

Settings = Mapping[str, Any]
"""A parsed tokenizer_config.json."""


def wordpiece(
    vocabulary: str,
    settings: Settings,
    added: Mapping[str, int],
) -> Tokenizer:
    """Return BERT's tokenizer.

    Args:
        vocabulary: the text of vocab.txt, one token a line.
        settings: tokenizer_config.json; empty for a model without one.
        added: token -> id, the content of added_tokens.json.

    Raises:
        ValueError: a setting of another kind, or one that is not implemented; a
            special token that is not in the vocabulary.
    """
    flags = _read_flags(settings, BERT_FLAGS)
    if flags["do_basic_tokenize"] is False:
        raise ValueError(
            "tokenizer_config.json: do_basic_tokenize is false, expected true"
        )
    names = {}
    for name, default in BERT_TOKENS.items():
        names[name] = _token_text(settings, name, default)

    # Not splitlines(), which also splits at tokens that are Unicode's line separators.
    lines = vocabulary.replace("\r\n", "\n").removesuffix("\n").split("\n")
    ids = {token: index for index, token in enumerate(lines)}
    # Without these two nothing can be put around a text; the others may be absent.
    _check_tokens("vocab.txt", ids, (names["cls_token"], names["sep_token"]))
    tokenizer = BertWordPieceTokenizer(
        ids,
        lowercase=flags["do_lower_case"],
        strip_accents=flags["strip_accents"],
        handle_chinese_chars=flags["tokenize_chinese_chars"],
        **names,
    )
    result = Tokenizer.from_str(tokenizer.to_str())
    _add_tokens(result, added)
    return result


def byte_level(
    vocabulary: dict[str, int],
    merges: str,
    settings: Settings,
    added: Mapping[str, int],
) -> Tokenizer:
    """Return RoBERTa's or GPT-2's tokenizer, byte-level BPE.

    RoBERTa's puts <s> and </s> around a text. A vocabulary without these two tokens is
    GPT-2's, which puts nothing around it, or its first token before it.

    Args:
        vocabulary: token -> id, the content of vocab.json.
        merges: the text of merges.txt: perhaps a version, then two tokens a line.
        settings: tokenizer_config.json; empty for a model without one.
        added: token -> id, the content of added_tokens.json.

    Raises:
        ValueError: a setting of another kind; a line of merges.txt that is no pair; ids
            that are no whole numbers.
    """
    flags = _read_flags(settings, BYTE_FLAGS)
    _check_ids("vocab.json", vocabulary)
    prefix_space = flags["add_prefix_space"]
    bpe = ByteLevelBPETokenizer(
        vocabulary, _parse_merges(merges), add_prefix_space=prefix_space
    )
    is_roberta = _is_roberta(vocabulary)
    special: list[str | AddedToken] = []
    for token in ROBERTA_TOKENS if is_roberta else GPT2_TOKENS:
        if token in vocabulary:
            special.append(token)
    if is_roberta and MASK_TOKEN in vocabulary:
        special.append(AddedToken(MASK_TOKEN, lstrip=True))
    bpe.add_special_tokens(special)

    # The library's BPE class is a wrapper without a post-processor.
    tokenizer = Tokenizer.from_str(bpe.to_str())
    _add_tokens(tokenizer, added)
    tokenizer.post_processor = _post_processor(vocabulary, settings, flags)
    return tokenizer


def _post_processor(
    vocabulary: Mapping[str, int], settings: Settings, flags: Mapping[str, Any]
) -> Any:
    """Return what puts special tokens around a text: RoBERTa's, a first one, or none."""
    if _is_roberta(vocabulary):
        return RobertaProcessing(
            ("</s>", vocabulary["</s>"]),
            ("<s>", vocabulary["<s>"]),
            add_prefix_space=flags["add_prefix_space"],
        )
    if not flags["add_bos_token"]:
        return ByteLevel(trim_offsets=False)
    first = _token_text(settings, "bos_token", "<|endoftext|>")
    _check_tokens("vocab.json", vocabulary, (first,))
    return TemplateProcessing(
        single=[first, "$A"],
        pair=[first, "$A", f"{first}:1", "$B:1"],
        special_tokens=[(first, vocabulary[first])],
    )


def _is_roberta(vocabulary: Mapping[str, int]) -> bool:
    return "<s>" in vocabulary and "</s>" in vocabulary


def _read_flags(settings: Settings, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are true or false; what is absent has its default."""
    flags = {}
    problems = []
    for name, default in defaults.items():
        value = settings.get(name, default)
        # Where null means something it is the default.
        if not isinstance(value, bool) and value is not default:
            problems.append(f"{name} is {value!r}, expected true or false")
        flags[name] = value
    if problems:
        raise ValueError(f"tokenizer_config.json: {'; '.join(problems)}")
    return flags


def _token_text(settings: Settings, name: str, default: str) -> str:
    """Return a special token, which is a text or an object with its content."""
    value = settings.get(name) or default
    if isinstance(value, Mapping):
        value = value.get("content")
    if not isinstance(value, str):
        raise ValueError(
            f"tokenizer_config.json: {name} is {value!r}, expected a token"
        )
    return value


def _check_tokens(
    file: str, vocabulary: Mapping[str, int], tokens: tuple[str, ...]
) -> None:
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        raise ValueError(
            f"{file}: expected the special tokens {', '.join(tokens)}, "
            f"missing: {', '.join(missing)}"
        )


def _check_ids(file: str, vocabulary: Mapping[str, Any]) -> None:
    for token, index in vocabulary.items():
        try:
            check_id(token, index)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None


def _add_tokens(tokenizer: Tokenizer, added: Mapping[str, int]) -> None:
    """Add tokens that the vocabulary lacks, in the order of their ids.

    Raises:
        ValueError: a token's id would not be the one that it has in the file.
    """
    _check_ids("added_tokens.json", added)
    tokens = sorted(added, key=lambda token: added[token])
    # All at once: the library searches for them with one automaton, built anew here.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    for token in tokens:
        index = tokenizer.token_to_id(token)
        # The library numbers them on from the vocabulary, whatever the file says.
        if index != added[token]:
            raise ValueError(
                f"added_tokens.json: expected {token!r} to have the id {index}, the "
                f"next one after the vocabulary, got {added[token]}"
            )


def _parse_merges(text: str) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(text.split("\n"), start=1):
        # The first line may be the version of the format.
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        tokens = line.rstrip("\r").split(" ")
        if len(tokens) != 2 or "" in tokens:
            raise ValueError(
                f"merges.txt, line {number}: expected two tokens, got {line!r}"
            )
        merges.append((tokens[0], tokens[1]))
    return merges
