"""The tokenizer of a GGUF file, from its metadata: byte-level BPE ("gpt2"), and sentencepiece's BPE with scores ("llama").

Metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. How a text is cut before byte-level BPE has only a name there;
the expressions behind it are llama.cpp's (src/llama-vocab.cpp), which are those of the models' own tokenizer.json.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
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

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # of token_type
MODELS = ("gpt2", "llama")
MOST = 5  # mistakes of a kind that are named
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {  # tokenizer.ggml.pre -> expressions, each of which cuts what the one before left whole
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_LLAMA3.replace("{1,3}", ""),),
}


def build_tokenizer(file: File) -> Tokenizer:
    """The tokenizer, with the file's ids and its tokens at the start and end of a text.

    Raises:
        ValueError: another model or cut than `MODELS` and `CUTS` have; fields that are missing or do not fit each other. All
            of them are named.
    """
    prefix, facts = "tokenizer.ggml.", dict[str, Any](unknown_token_id=0)
    facts |= {
        name.removeprefix(prefix): value
        for name, value in file.metadata.items()
        if name.startswith(prefix)
    }
    if problems := _problems(facts):
        raise ValueError(
            "a tokenizer that cannot be read from this GGUF file:\n  "
            + "\n  ".join(problems)
        )
    made = _byte_level(facts) if facts["model"] == "gpt2" else _sentencepiece(facts)
    types = dict(zip(facts["tokens"], facts["token_type"], strict=True))
    made.add_special_tokens(
        [
            AddedToken(t, normalized=False)
            for t, kind in types.items()
            if kind in (UNKNOWN, CONTROL)
        ]
    )
    made.add_tokens(
        [
            AddedToken(t, normalized=False)
            for t, kind in types.items()
            if kind == USER_DEFINED
        ]
    )
    if around := _around(facts):
        made.post_processor = _template(facts, around)
    return made


def _byte_level(facts: dict[str, Any]) -> Tokenizer:
    cut = facts.get("pre", "default")
    pairs = [tuple(merge.split(" ")) for merge in facts["merges"]]
    made = Tokenizer(BPE(_ids(facts), pairs, ignore_merges=cut == "llama-bpe"))
    if cut == "qwen2":  # as in Qwen2's own tokenizer.json; llama.cpp leaves it out
        made.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(each), "isolated") for each in CUTS[cut]]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(facts: dict[str, Any]) -> Tokenizer:
    unknown = facts["tokens"][facts["unknown_token_id"]]
    # Converters have written a tokenizer.json's merges with made-up scores (gguf's LlamaHfVocab).
    pairs = (
        [tuple(merge.split(" ")) for merge in facts["merges"]]
        if "merges" in facts
        else _merges(facts)
    )
    made = Tokenizer(
        BPE(_ids(facts), pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = facts.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    )
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return made


def _merges(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Every way to make a token of two, the best token first."""
    parts = zip(facts["tokens"], facts["scores"], facts["token_type"], strict=True)
    scores = {
        token: score for token, score, kind in parts if kind in (NORMAL, USER_DEFINED)
    }
    pairs = (
        (token[:i], token[i:])
        for token in sorted(scores, key=lambda t: -scores[t])
        for i in range(1, len(token))
    )
    return [
        (left, right) for left, right in pairs if left in scores and right in scores
    ]


def _ids(facts: dict[str, Any]) -> dict[str, int]:
    return {token: i for i, token in enumerate(facts["tokens"])}


def _around(facts: dict[str, Any]) -> list[str]:
    """Which tokens are put around a text; what a file does not say is as llama.cpp has it."""
    begins = facts.get("model") == "llama" or facts.get("pre") == "llama-bpe"
    return [
        end
        for end, default in (("bos", begins), ("eos", False))
        if facts.get(f"add_{end}_token", default)
    ]


def _template(facts: dict[str, Any], around: list[str]) -> TemplateProcessing:
    pieces = [
        piece for piece in ("bos", "$A", "eos") if piece == "$A" or piece in around
    ]
    ids = {end: facts[f"{end}_token_id"] for end in around}
    return TemplateProcessing(
        single=pieces,
        pair=pieces + [f"{piece.replace('A', 'B')}:1" for piece in pieces],
        special_tokens=[
            {"id": end, "ids": [i], "tokens": [facts["tokens"][i]]}
            for end, i in ids.items()
        ],
    )


def _problems(facts: dict[str, Any]) -> list[str]:
    model, cut = facts.get("model"), facts.get("pre", "default")
    if model not in MODELS:
        return [
            f"tokenizer.ggml.model: expected one of {', '.join(MODELS)}, got {model!r}"
        ]
    if model == "gpt2" and cut not in CUTS:
        return [f"tokenizer.ggml.pre: expected one of {', '.join(CUTS)}, got {cut!r}"]
    needed = [
        "tokens",
        "token_type",
        "merges" if model == "gpt2" or "merges" in facts else "scores",
    ]
    if absent := [name for name in needed if not isinstance(facts.get(name), list)]:
        return [
            f"tokenizer.ggml.{name}: expected a list, got {facts.get(name)!r}"
            for name in absent
        ]
    tokens = facts["tokens"]
    ids = [
        f"{name}_token_id"
        for name in [*_around(facts), *["unknown"] * (model == "llama")]
    ]
    return [
        *(
            f"tokenizer.ggml.{name}: expected {len(tokens)} as there are tokens, got {len(facts[name])}"
            for name in needed[1:]
            if name != "merges" and len(facts[name]) != len(tokens)
        ),
        *(
            f"tokenizer.ggml.tokens: expected each once, got {times} of {token!r}"
            for token, times in Counter(tokens).most_common(MOST)
            if times > 1
        ),
        *(
            f"tokenizer.ggml.{name}: expected a token's number below {len(tokens)}, got {facts.get(name)!r}"
            for name in ids
            if facts.get(name) not in range(len(tokens))
        ),
        *(
            f"tokenizer.ggml.merges: expected two tokens that make a third, got {merge!r}"
            for merge in islice(_strangers(set(tokens), facts.get("merges", [])), MOST)
        ),
    ]


def _strangers(tokens: set[str], merges: list[str]) -> Iterator[str]:
    for merge in merges:
        pair = merge.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= tokens:
            yield merge
