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

from lora_jax.models.tokenizer_settings import (
    GENERAL,
    Settings,
    named_contents,
    token_text,
)
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
BYTE_FLAGS = {
    "add_prefix_space": False,
    "add_bos_token": False,
    "add_eos_token": False,
}
# Classes of transformers that read these files so; None is a file without one.
WORDPIECE_CLASSES = ("Bert", "DistilBert", "Electra")
BYTE_CLASSES = ("GPT2", "Roberta")


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
    _check_class(settings, "vocab.txt", WORDPIECE_CLASSES)
    flags = _read_flags(settings, BERT_FLAGS)
    if flags["do_basic_tokenize"] is False:
        raise ValueError(
            "tokenizer_config.json: do_basic_tokenize is false, expected true"
        )
    names = {}
    for name, default in BERT_TOKENS.items():
        names[name] = token_text(settings, name, default)

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
    add_tokens(result, added, settings)
    return result


def byte_level(
    vocabulary: dict[str, int],
    merges: str,
    settings: Settings,
    added: Mapping[str, int],
) -> Tokenizer:
    """Return RoBERTa's or GPT-2's tokenizer, byte-level BPE.

    RoBERTa's puts <s> and </s> around a text. GPT-2's puts nothing around it, or its
    first and its last token. Whose it is says `tokenizer_class`, or else whether the
    vocabulary has <s> and </s>.

    Args:
        vocabulary: token -> id, the content of vocab.json.
        merges: the text of merges.txt: perhaps a version, then two tokens a line.
        settings: tokenizer_config.json; empty for a model without one.
        added: token -> id, the content of added_tokens.json.

    Raises:
        ValueError: a setting of another kind; a line of merges.txt that is no pair; ids
            that are no whole numbers.
    """
    _check_class(settings, "vocab.json and merges.txt", BYTE_CLASSES)
    flags = _read_flags(settings, BYTE_FLAGS)
    _check_ids("vocab.json", vocabulary)
    prefix_space = flags["add_prefix_space"]
    bpe = ByteLevelBPETokenizer(
        vocabulary, _parse_merges(merges), add_prefix_space=prefix_space
    )
    is_roberta = _is_roberta(vocabulary, settings)
    special: list[str | AddedToken] = []
    for token in ROBERTA_TOKENS if is_roberta else GPT2_TOKENS:
        if token in vocabulary:
            special.append(token)
    if is_roberta and MASK_TOKEN in vocabulary:
        special.append(AddedToken(MASK_TOKEN, lstrip=True))
    bpe.add_special_tokens(special)

    # The library's BPE class is a wrapper without a post-processor.
    tokenizer = Tokenizer.from_str(bpe.to_str())
    add_tokens(tokenizer, added, settings)
    tokenizer.post_processor = _post_processor(vocabulary, settings, flags)
    return tokenizer


def _post_processor(
    vocabulary: Mapping[str, int], settings: Settings, flags: Mapping[str, Any]
) -> Any:
    """Return what puts special tokens around a text: RoBERTa's, two ends, or none."""
    if _is_roberta(vocabulary, settings):
        cls = token_text(settings, "cls_token", "<s>")
        sep = token_text(settings, "sep_token", "</s>")
        _check_tokens("vocab.json", vocabulary, (cls, sep))
        return RobertaProcessing(
            (sep, vocabulary[sep]),
            (cls, vocabulary[cls]),
            add_prefix_space=flags["add_prefix_space"],
        )
    first = token_text(settings, "bos_token", "<|endoftext|>")
    last = token_text(settings, "eos_token", "<|endoftext|>")
    before = [first] if flags["add_bos_token"] else []
    after = [last] if flags["add_eos_token"] else []
    ends = (*before, *after)
    if not ends:
        return ByteLevel(trim_offsets=False)
    _check_tokens("vocab.json", vocabulary, ends)
    second = [f"{token}:1" for token in (*before, "$B", *after)]
    return TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *second],
        special_tokens=[(token, vocabulary[token]) for token in sorted(set(ends))],
    )


def _is_roberta(vocabulary: Mapping[str, int], settings: Settings) -> bool:
    name = settings.get("tokenizer_class") or ""
    for kind in BYTE_CLASSES:
        if name.startswith(kind):
            return kind == "Roberta"
    return "<s>" in vocabulary and "</s>" in vocabulary


def _check_class(settings: Settings, files: str, kinds: tuple[str, ...]) -> None:
    """Raise a ValueError for a tokenizer that makes other tokens of these files."""
    name = settings.get("tokenizer_class")
    known = [f"{kind}Tokenizer{end}" for kind in kinds for end in ("", "Fast")]
    if name is None or name in GENERAL or name in known:
        return
    raise ValueError(
        f"{files} of {name!r}: expected one of {', '.join(known)}; other tokenizers "
        "need their tokenizer.json"
    )


def _read_flags(settings: Settings, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are true or false; what is absent has its default."""
    flags = {}
    problems = []
    for name, default in defaults.items():
        value = settings.get(name)
        # Null is the default, as if the field were absent.
        if value is None:
            value = default
        elif not isinstance(value, bool):
            problems.append(f"{name} is {value!r}, expected true or false")
        flags[name] = value
    if problems:
        raise ValueError(f"tokenizer_config.json: {'; '.join(problems)}")
    return flags


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


def add_tokens(
    tokenizer: Tokenizer, added: Mapping[str, int], settings: Settings
) -> None:
    """Add tokens that the vocabulary lacks, in the order of their ids.

    Raises:
        ValueError: a token's id would not be the one that it has in the file.
    """
    _check_ids("added_tokens.json", added)
    named = named_contents(settings)
    names = sorted(added, key=lambda token: added[token])
    tokens = []
    for name in names:
        # Tokens that no setting names are looked for in lowercased text, too.
        special = name in named
        tokens.append(AddedToken(name, special=special, normalized=not special))
    # All at once: the library searches for them with one automaton, built anew here.
    tokenizer.add_tokens(tokens)
    for token in names:
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
