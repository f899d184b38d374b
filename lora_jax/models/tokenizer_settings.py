"""Settings beside a tokenizer.json that change its tokens, as transformers has them.

They are in tokenizer_config.json, and in older directories in special_tokens_map.json.
Where transformers builds the tokenizer anew from both files (all classes but the general
ones), a setting that tokenizer.json contradicts goes before it, or is refused where
releases of transformers differ. What decoding, chat and padding need is not read.
"""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer

Settings = Mapping[str, Any]
"""A parsed tokenizer_config.json."""

# Classes that take a tokenizer.json as it is.
GENERAL = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Settings that name a special token, in the order in which missing ones are added.
NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
EXTRA = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("lstrip", "rstrip", "single_word")
# The setting -> the attribute of BERT's normalizer.
BERT_FLAGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def merge_settings(config: Settings, special: Settings) -> dict[str, Any]:
    """Return tokenizer_config.json with what special_tokens_map.json says.

    It is the older file: where tokenizer_config.json lists its tokens it is not read.
    """
    if "added_tokens_decoder" in config:
        return dict(config)
    return {**config, **special}


def apply_settings(tokenizer: Tokenizer, settings: Settings) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json with its settings.

    Raises:
        ValueError: a setting of another kind, or one that tokenizer.json contradicts.
    """
    if settings.get("split_special_tokens"):
        raise ValueError(
            "tokenizer_config.json: split_special_tokens is true, expected false"
        )
    if settings.get("tokenizer_class") in GENERAL:
        return tokenizer
    problems = _end_problems(tokenizer, settings)
    problems += _unknown_problems(tokenizer, settings)
    problems += _prepend_problems(tokenizer, settings)
    if problems:
        raise ValueError(f"tokenizer_config.json: {'; '.join(problems)}")
    _set_bert_flags(tokenizer, settings)
    return _with_prefix_space(tokenizer, settings)


def add_special_tokens(tokenizer: Tokenizer, settings: Settings) -> None:
    """Make the tokens that the settings name special; those that are missing get ids.

    Raises:
        ValueError: a token of another kind, or one whose id is another in the file.
    """
    # The text of a token lists all its flags, which equality leaves out.
    texts = {repr(token) for token in _added_tokens(tokenizer)}
    listed = _listed_tokens(settings)
    missing = [token for token in listed.values() if repr(token) not in texts]
    # All at once: the library searches for them with one automaton, built anew here.
    tokenizer.add_tokens(missing)
    for index, token in listed.items():
        actual = tokenizer.token_to_id(token.content)
        if actual != index:
            raise ValueError(
                f"tokenizer_config.json: added_tokens_decoder has {token.content!r} "
                f"as {index}, the tokenizer as {actual}"
            )
    # A token that is special already keeps how it takes the spaces beside it.
    known = {token.content for token in _added_tokens(tokenizer)}
    named = {}
    for token in _named_tokens(settings):
        if token.content not in known:
            named.setdefault(token.content, token)
    tokenizer.add_special_tokens(list(named.values()))


def named_contents(settings: Settings) -> set[str]:
    """Return the texts of the special tokens that the settings name."""
    return {token.content for token in _named_tokens(settings)}


def token_text(settings: Settings, name: str, default: str) -> str:
    """Return a special token, which is a text or an object with its content."""
    return _added_token(name, settings.get(name) or default).content


def _listed_tokens(settings: Settings) -> dict[int, AddedToken]:
    """Return the tokens in added_tokens_decoder by their ids, in order."""
    listed = settings.get("added_tokens_decoder") or {}
    if not isinstance(listed, Mapping):
        raise ValueError(
            f"tokenizer_config.json: added_tokens_decoder is {listed!r}, expected an "
            "object"
        )
    tokens = {}
    for key, fields in listed.items():
        # JSON has keys that are texts alone.
        if not (key.isdecimal() and len(key) < 10):
            raise ValueError(
                f"tokenizer_config.json: added_tokens_decoder has the id {key!r}, "
                "expected a number"
            )
        tokens[int(key)] = _added_token("added_tokens_decoder", fields)
    return dict(sorted(tokens.items()))


def _named_tokens(settings: Settings) -> list[AddedToken]:
    tokens = []
    for name in NAMED:
        if settings.get(name) is not None:
            tokens.append(_added_token(name, settings[name]))
    for name in EXTRA:
        extra = settings.get(name) or []
        # A list, or an object with a name for each of them.
        values = extra.values() if isinstance(extra, Mapping) else extra
        if isinstance(values, str | int | float):
            raise ValueError(
                f"tokenizer_config.json: {name} is {extra!r}, expected a list"
            )
        for value in values:
            tokens.append(_added_token(name, value))
    return tokens


def _added_token(name: str, value: Any) -> AddedToken:
    fields = value if isinstance(value, Mapping) else {"content": value}
    content = fields.get("content")
    if not isinstance(content, str) or not content:
        raise ValueError(
            f"tokenizer_config.json: {name} is {value!r}, expected a token"
        )
    flags = {flag: fields.get(flag, False) is True for flag in FLAGS}
    special = fields.get("special", True) is True
    normalized = fields.get("normalized", not special) is True
    return AddedToken(content, special=special, normalized=normalized, **flags)


def _added_tokens(tokenizer: Tokenizer) -> list[AddedToken]:
    return list(tokenizer.get_added_tokens_decoder().values())


def _end_problems(tokenizer: Tokenizer, settings: Settings) -> list[str]:
    """Return a message for each named token at an end of a text that is not put there."""
    ends = tokenizer.encode("").tokens
    problems = []
    # A model that learns from labels has one token before a text, and one after it.
    if len(ends) != 2:
        return problems
    for name, end in zip(("cls_token", "sep_token"), ends, strict=True):
        if settings.get(name) is not None and token_text(settings, name, "") != end:
            problems.append(
                f"{name} is {token_text(settings, name, '')!r}, but tokenizer.json puts "
                f"{end!r} there"
            )
    return problems


def _unknown_problems(tokenizer: Tokenizer, settings: Settings) -> list[str]:
    model = tokenizer.model
    if settings.get("unk_token") is None or not isinstance(model, WordPiece):
        return []
    unknown = token_text(settings, "unk_token", "")
    if unknown == model.unk_token:
        return []
    return [
        f"unk_token is {unknown!r}, but tokenizer.json has {model.unk_token!r} for "
        "unknown words"
    ]


def _prepend_problems(tokenizer: Tokenizer, settings: Settings) -> list[str]:
    # Sentencepiece's space before a text is made by either of two steps.
    if settings.get("add_prefix_space") is not False:
        return []
    for step in _steps(tokenizer):
        scheme = step.get("prepend_scheme", "never")
        if step["type"] == "Prepend" or scheme != "never":
            return [
                "add_prefix_space is false, but tokenizer.json puts a space before a "
                "text"
            ]
    return []


def _set_bert_flags(tokenizer: Tokenizer, settings: Settings) -> None:
    normalizer = tokenizer.normalizer
    if not isinstance(normalizer, BertNormalizer):
        return
    flags: dict[str, Any] = {"clean_text": normalizer.clean_text}
    for name, attribute in BERT_FLAGS.items():
        value = settings.get(name, getattr(normalizer, attribute))
        # Null are accents that follow the case; a case that is null is absent.
        if value is None and name != "strip_accents":
            value = getattr(normalizer, attribute)
        if not isinstance(value, bool | None):
            raise ValueError(
                f"tokenizer_config.json: {name} is {value!r}, expected true or false"
            )
        flags[attribute] = value
    tokenizer.normalizer = BertNormalizer(**flags)


def _with_prefix_space(tokenizer: Tokenizer, settings: Settings) -> Tokenizer:
    prefix_space = settings.get("add_prefix_space")
    if not isinstance(prefix_space, bool):
        return tokenizer
    states = [step.get("add_prefix_space", prefix_space) for step in _steps(tokenizer)]
    if all(state == prefix_space for state in states):
        return tokenizer
    # Steps cannot be changed but in the tokenizer's JSON.
    fields = json.loads(tokenizer.to_str())
    for step in _flatten(fields["pre_tokenizer"]):
        if "add_prefix_space" in step:
            step["add_prefix_space"] = prefix_space
    return Tokenizer.from_str(json.dumps(fields))


def _steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the steps before the vocabulary is used, as tokenizer.json has them."""
    steps = []
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer):
        if part is not None:
            steps += _flatten(json.loads(part.__getstate__()))
    return steps


def _flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
    inner = step.get("normalizers", step.get("pretokenizers"))
    if inner is None:
        return [step]
    steps = []
    for part in inner:
        steps += _flatten(part)
    return steps
