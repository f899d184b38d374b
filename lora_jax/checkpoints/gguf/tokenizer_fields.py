"""The fields of a GGUF file that describe its tokenizer, and whether they fit."""

from collections import Counter
from reprlib import repr as shorten
from typing import Any

from lora_jax.checkpoints.gguf.file import File
from lora_jax.checkpoints.gguf.splits import DEFAULT, SPLITS

# Values of token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
# Byte-level BPE, and sentencepiece's BPE with scores.
MODELS = ("gpt2", "llama")

# What the lists hold: types, and words for them.
ITEMS = {
    "tokens": ((str,), "a text"),
    "merges": ((str,), "a text"),
    "token_type": ((int,), "a whole number"),
    "scores": ((int, float), "a number"),
}
# In characters: those of spaces are the longest, with some hundred.
MAX_TOKEN = 1024

_PREFIX = "tokenizer.ggml."
# How many mistakes of a kind an error names: a vocabulary can have thousands.
_LIMIT = 5


def read_fields(file: File) -> dict[str, Any]:
    """Return the fields of a file's tokenizer by name, without their prefix.

    Raises:
        ValueError: another model or split than are known; fields that are missing or do
            not fit each other. All of them are named.
    """
    # What llama.cpp has for fields that a file leaves out.
    fields: dict[str, Any] = {"unknown_token_id": 0, "pre": DEFAULT}
    for name, value in file.metadata.items():
        if name.startswith(_PREFIX):
            fields[name.removeprefix(_PREFIX)] = value
    problems = _find_problems(fields)
    if problems:
        lines = ""
        for problem in problems:
            lines += f"\n  {_PREFIX}{problem}"
        raise ValueError(f"a tokenizer that cannot be read from this GGUF file:{lines}")
    return fields


def added_ends(fields: dict[str, Any]) -> list[str]:
    """Return which of "bos" and "eos" are put around a text.

    What a file does not say is as in llama.cpp.
    """
    # Both Llama tokenizers begin a text with a token of their own.
    is_llama = fields["model"] == "llama" or fields["pre"] == "llama-bpe"
    ends = []
    if fields.get("add_bos_token", is_llama):
        ends.append("bos")
    if fields.get("add_eos_token", False):
        ends.append("eos")
    return ends


def _find_problems(fields: dict[str, Any]) -> list[str]:
    """Return a line for each field that is not as it must be.

    The later checks need what the earlier ones ask for.
    """
    model = fields.get("model")
    if model not in MODELS:
        models = ", ".join(MODELS)
        return [f"model: expected one of {models}, got {shorten(model)}"]
    split = fields["pre"]
    # A list, for example, cannot be looked up.
    if model == "gpt2" and split not in list(SPLITS):
        splits = ", ".join(SPLITS)
        return [f"pre: expected one of {splits}, got {shorten(split)}"]

    # Lists first, then whether they fit each other.
    names = _list_names(fields)
    problems = []
    for name in names:
        value = fields.get(name)
        if not isinstance(value, list):
            problems.append(f"{name}: expected a list, got {shorten(value)}")
            continue
        problems += _item_problems(name, value)
    if problems:
        return problems
    problems += _length_problems(fields, names)
    problems += _token_problems(fields)
    problems += _id_problems(fields)
    problems += _merge_problems(fields)
    return problems


def _list_names(fields: dict[str, Any]) -> list[str]:
    """Return the names of the lists that the tokenizer is made from."""
    # Some converters write merges for sentencepiece too.
    if fields["model"] == "gpt2" or "merges" in fields:
        return ["tokens", "token_type", "merges"]
    return ["tokens", "token_type", "scores"]


def _item_problems(name: str, values: list[Any]) -> list[str]:
    """Return a line, in a list, for the first item that is not of its list's kind."""
    kinds, description = ITEMS[name]
    for index, value in enumerate(values):
        if type(value) not in kinds:
            expected = f"{description} in place {index}"
            return [f"{name}: expected {expected}, got {shorten(value)}"]
        # All ways to split a token are looked at.
        if name == "tokens" and len(value) > MAX_TOKEN:
            expected = f"tokens of up to {MAX_TOKEN:,} characters"
            return [f"{name}: expected {expected}, got {len(value):,} in place {index}"]
    return []


def _length_problems(fields: dict[str, Any], names: list[str]) -> list[str]:
    count = len(fields["tokens"])
    problems = []
    for name in names:
        # Merges are no list of something for each token.
        if name == "merges":
            continue
        length = len(fields[name])
        if length != count:
            problems.append(
                f"{name}: expected {count} as there are tokens, got {length}"
            )
    return problems


def _token_problems(fields: dict[str, Any]) -> list[str]:
    counts = Counter(fields["tokens"])
    problems = []
    # The most frequent come first.
    for token, count in counts.most_common(_LIMIT):
        if count > 1:
            problems.append(
                f"tokens: expected each once, got {count} of {shorten(token)}"
            )
    return problems


def _id_problems(fields: dict[str, Any]) -> list[str]:
    # Only the ids that are used have to be there.
    names = added_ends(fields)
    if fields["model"] == "llama":
        names.append("unknown")
    count = len(fields["tokens"])
    problems = []
    for name in names:
        token_id = fields.get(f"{name}_token_id")
        if token_id not in range(count):
            problems.append(
                f"{name}_token_id: expected a token's number below {count}, "
                f"got {shorten(token_id)}"
            )
    return problems


def _merge_problems(fields: dict[str, Any]) -> list[str]:
    tokens = set(fields["tokens"])
    problems = []
    for merge in fields.get("merges", []):
        parts = merge.split(" ")
        # "a b" makes "ab".
        merged = "".join(parts)
        if len(parts) == 2 and tokens.issuperset([merged, *parts]):
            continue
        problems.append(
            f"merges: expected two tokens that make a third, got {shorten(merge)}"
        )
        if len(problems) == _LIMIT:
            break
    return problems
