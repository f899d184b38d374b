"""Tokenizers from outside, tried before they are trusted.

The tokenizers library reads many a broken file without a word and fails at the first
text, with exceptions without a class, with panics, or by ending the process when it
asks for gigabytes. So what would end the process is looked for beforehand, and a short
text is encoded at once.
"""

import base64
import binascii
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from lora_jax import bounded_json
from lora_jax.models import tokenizer_growth

# Memory goes by the largest id, and the largest vocabularies have some 260,000 tokens.
MAX_ID = 2**24
# Padding is allocated as asked for; no model has so many positions.
MAX_LENGTH = 2**20
# Fields beyond both bounds, in the JSON as it is written.
_LONG_NUMBER = re.compile(r":\s*\d{7}")
# Fields of steps that change a text's length. Tokens of these names have numbers.
_GROWING = re.compile(
    r'"(?:prepend|pattern|single|pair)"\s*:\s*["\[{]|"dropout"\s*:\s*[^\sn]'
)
# "Precompiled" may be spelled "\u0050recompiled".
_HIDDEN_LETTER = re.compile(r"\\u00(?:[2-6]|7[0-9a-eA-E])")
# With a letter, a digit, a mark and what few vocabularies have, for unknown tokens.
TEXT = "A film, 0 é ☃"


def build(name: str, read: Callable[[], Tokenizer]) -> Tokenizer:
    """Return the tokenizer that `read` gives, once it has encoded a text and a pair.

    Raises:
        ValueError: what `read` raises, which names its file; or the library cannot
            make a tokenizer of the file `name`, or not encode with it.
    """
    with _quiet_stderr():
        tokenizer = _call(read, f"{name}: expected a tokenizer")
        _call(
            partial(_try, name, tokenizer), f"{name}: expected a tokenizer for any text"
        )
    return tokenizer


def _call(function: Callable[[], Any], expected: str) -> Any:
    try:
        return function()
    except (ValueError, OSError, KeyboardInterrupt, SystemExit):
        raise
    # A panic of the library is no Exception, and its other errors have no own class.
    except BaseException as error:
        text = str(error).strip() or type(error).__name__
        first_line = text.partition("\n")[0][:300]
        raise ValueError(f"{expected}, got an error ({first_line})") from None


def parse(text: str) -> Tokenizer:
    """Return the tokenizer in the text of a tokenizer.json.

    Raises:
        ValueError: the text is no JSON, or asks for more memory than a tokenizer needs,
            or makes texts far longer, or random.
        Exception: whatever the library makes of the text.
    """
    # To parse a vocabulary of 128,000 tokens here too would take as long again.
    if _may_take_memory(text):
        try:
            _check(bounded_json.parse(text))
        except ValueError as error:
            raise ValueError(f"tokenizer.json: {error}") from None
    return Tokenizer.from_str(text)


def check_id(token: str, index: Any) -> None:
    """Raise a ValueError unless a token's id is one that a vocabulary may have."""
    if type(index) is not int or not 0 <= index < MAX_ID:
        raise ValueError(
            f"expected a token id in 0 … {MAX_ID - 1} for {token!r}, got {index!r}"
        )


def _try(name: str, tokenizer: Tokenizer) -> None:
    """Encode and decode a text and a pair, which nothing may be wrong with."""
    if not tokenizer.get_vocab_size():
        raise ValueError(f"{name}: expected tokens, got an empty vocabulary")
    for row in (tokenizer.encode(TEXT), tokenizer.encode(TEXT, TEXT)):
        # The special tokens around a text have ids of their own in the file.
        for index in set(row.ids):
            if tokenizer.id_to_token(index) is None:
                raise ValueError(
                    f"{name}: expected ids of tokens, but texts are encoded with "
                    f"{index}, which no token has"
                )
        segment = max(row.type_ids, default=0)
        if segment > 1:
            raise ValueError(
                f"{name}: expected the type ids 0 and 1, but texts are encoded with "
                f"{segment}"
            )
        tokenizer.decode(row.ids)


def _may_take_memory(text: str) -> bool:
    """Whether the text has a field that `_check` looks at, or may hide one."""
    return (
        "Precompiled" in text
        or _LONG_NUMBER.search(text) is not None
        or _GROWING.search(text) is not None
        or _HIDDEN_LETTER.search(text) is not None
    )


def _check(fields: Any) -> None:
    """Raise a ValueError for what the library would allocate until the process ends."""
    # What has another form is told by the library.
    if not isinstance(fields, dict):
        return
    model = fields.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        for token, index in vocabulary.items():
            check_id(token, index)
    padding = fields.get("padding")
    if isinstance(padding, dict):
        _check_padding(padding)
    for _, component in tokenizer_growth.components(fields.get("normalizer")):
        if component.get("type") == "Precompiled":
            _check_character_map(component.get("precompiled_charsmap"))
    tokenizer_growth.check(fields)


def _check_padding(padding: dict[str, Any]) -> None:
    lengths = {"pad_to_multiple_of": padding.get("pad_to_multiple_of")}
    strategy = padding.get("strategy")
    if isinstance(strategy, dict):
        lengths |= strategy
    for name, length in lengths.items():
        # What is no number is told by the library.
        if isinstance(length, int | float) and not length <= MAX_LENGTH:
            raise ValueError(
                f"padding: expected {name} up to {MAX_LENGTH}, got {length!r}"
            )


def _check_character_map(text: Any) -> None:
    """Check sentencepiece's character map: a size in bytes, a trie of it, then texts."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        content = b""
    size = int.from_bytes(content[:4], "little")
    # The library allocates the trie by its size, before it reads it.
    if len(content) < 4 or size % 4 or size > len(content) - 4:
        raise ValueError(
            "precompiled_charsmap: expected a map in base64, with its size and as many "
            f"bytes, got a size of {size} and {max(0, len(content) - 4)} bytes"
        )


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep the library's panics off the terminal: they are exceptions as well."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
