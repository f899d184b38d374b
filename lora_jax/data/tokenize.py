"""Text to token ids, without padding.

Rows are kept end to end in one array, since how much padding a row needs depends on the
batch it gets into.
"""

import copy
import reprlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tokenizers import Encoding, Tokenizer

from lora_jax.data.table import raise_problems
from lora_jax.data.task import Examples, targets

CHUNK = 4096  # rows encoded at a time: a tokenizer's own records take some 5 kB a row

# Between source and target: a line break. A tokenizer of byte pairs such as GPT-2's
# gives a source that ends in one, and a target without a leading space, the tokens of
# both texts joined (in all 42,061 rows of E2E), so that a model meets what it was
# pretrained on although the two are tokenized apart. The LoRA authors put <|endoftext|>
# there, and a space before the target.
SEPARATOR = "\n"


class Encoded(NamedTuple):
    """N rows end to end: row i is `tokens[offsets[i]:offsets[i + 1]]`.

    S counts the tokens of all rows. `segments` are what the tokenizer calls type ids:
    for BERT 1 in the second text. Those of `encode_pairs` are 1 in the target. `label`
    is as in `Examples`.
    """

    tokens: np.ndarray  # [S] int32
    segments: np.ndarray  # [S] int32
    offsets: np.ndarray  # [N + 1] int64
    label: np.ndarray  # [N]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [N]."""
        return np.diff(self.offsets)


def encode(tokenizer: Tokenizer, examples: Examples, *, max_length: int) -> Encoded:
    """Return labeled texts as the tokenizer encodes them, with its special tokens.

    Rows are cut to `max_length` tokens, the longer text of a pair first; the special
    tokens stay. Padding and truncation set on `tokenizer` are ignored, and it is left
    as it was.

    Raises:
        ValueError: `max_length` has no room for a token of every text, or a row has no
            tokens.
    """
    _check_room(tokenizer, examples, max_length)
    # A copy, since a tokenizer keeps such settings and may be shared.
    own_tokenizer = copy.deepcopy(tokenizer)
    own_tokenizer.no_padding()
    own_tokenizer.enable_truncation(max_length, strategy="longest_first")
    texts: list = examples.text
    if examples.pair is not None:
        texts = list(zip(examples.text, examples.pair, strict=True))
    tokens = []
    segments = []
    lengths = [0]
    for chunk in _chunks(texts):
        rows = _encode_texts(own_tokenizer, chunk, add_special_tokens=True)
        tokens.append(_join([row.ids for row in rows]))
        segments.append(_join([row.type_ids for row in rows]))
        lengths += [len(row) for row in rows]
    # A masked softmax over a row without tokens would divide 0 by 0.
    if 0 in lengths[1:]:
        row = lengths.index(0, 1) - 1
        raise ValueError(
            f"example {row} ({examples.text[row]!r}) has no tokens; "
            "expected one or more in every example"
        )
    return Encoded(
        tokens=_join(tokens),
        segments=_join(segments),
        offsets=np.cumsum(lengths, dtype=np.int64),
        label=examples.label,
    )


def encode_pairs(
    tokenizer: Tokenizer,
    examples: Examples,
    *,
    max_length: int,
    end: int,
    start: int | None = None,
    separator: str = SEPARATOR,
) -> Encoded:
    """Return sources and targets as rows that a language model learns to continue.

    A row is [start] + source and separator + target + [end]. Without `start` it begins
    as the tokenizer begins a text: with the BOS token of Llama's and Mistral's, with
    nothing of GPT-2's. `segments` is 1 in the target and at `end`, which a loss on the
    target is about. Nothing is cut, and no special tokens are read out of texts.

    Raises:
        ValueError: texts are blank (it names the rows), or rows are longer than
            `max_length`.
    """
    # Both sides are tokenized apart, so that a row begins exactly as its prompt.
    sources = _prompt_ids(tokenizer, examples.text, start, separator)
    target_ids = _token_ids(tokenizer, targets(examples), "target")
    # Source and target of each row in turn: parts 0, 2, 4, ... are the sources.
    parts: list[list[int]] = []
    for source, target in zip(sources, target_ids, strict=True):
        parts += [source, [*target, end]]
    sizes = np.array([len(part) for part in parts], np.int64)
    _check_lengths(examples.text, sizes[::2] + sizes[1::2], max_length)
    # [S]: 0 over the tokens of a source, 1 over those of a target.
    is_target = np.arange(len(parts), dtype=np.int32) % 2
    row_ends = sizes.cumsum()[1::2]
    return Encoded(
        tokens=np.fromiter(chain.from_iterable(parts), np.int32),
        segments=np.repeat(is_target, sizes),
        offsets=np.concatenate([[0], row_ends]),
        label=examples.label,
    )


def encode_prompts(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    *,
    max_length: int,
    start: int | None = None,
    separator: str = SEPARATOR,
) -> list[list[int]]:
    """Return the tokens that a model continues for each source.

    They are exactly how its row begins in `encode_pairs`.

    Raises:
        ValueError: as `encode_pairs` does.
    """
    prompts = _prompt_ids(tokenizer, sources, start, separator)
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    _check_lengths(sources, lengths, max_length)
    return prompts


def leading_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens that a tokenizer's post-processor puts before a text."""
    own_tokenizer = copy.deepcopy(tokenizer)
    own_tokenizer.no_padding()
    own_tokenizer.no_truncation()
    # Any text: what is put before it does not depend on it.
    row = own_tokenizer.encode("a")
    tokens = []
    for token, is_special in zip(row.ids, row.special_tokens_mask, strict=True):
        if not is_special:
            break
        tokens.append(token)
    return tokens


def _check_room(tokenizer: Tokenizer, examples: Examples, max_length: int) -> None:
    is_pair = examples.pair is not None
    texts = 2 if is_pair else 1
    shortest = tokenizer.num_special_tokens_to_add(is_pair) + texts
    if max_length < shortest:
        raise ValueError(
            f"expected max_length {shortest} or more (the special tokens and one of "
            f"each text), got {max_length}"
        )


def _prompt_ids(
    tokenizer: Tokenizer, sources: Sequence[str], start: int | None, separator: str
) -> list[list[int]]:
    rows = _token_ids(tokenizer, sources, "source", separator)
    first = leading_tokens(tokenizer) if start is None else [start]
    return [[*first, *row] for row in rows]


def _token_ids(
    tokenizer: Tokenizer, texts: Sequence[str], role: str, suffix: str = ""
) -> list[list[int]]:
    """The tokens of each text with the suffix; `role` names the texts for errors."""
    # Blank texts are told by row, before the tokenizer is asked.
    problems = []
    for row, text in enumerate(texts):
        if not text.strip():
            problems.append(f"row {row}: expected a {role}, got {text!r}")
    raise_problems(problems)
    # A text of characters that the vocabulary lacks may have no tokens either.
    ids_by_text = _ids_by_text(tokenizer, texts, suffix)
    for row, text in enumerate(texts):
        if not ids_by_text[text]:
            problems.append(f"row {row}: the {role} {text!r} has no tokens")
    raise_problems(problems)
    return [ids_by_text[text] for text in texts]


def _ids_by_text(
    tokenizer: Tokenizer, texts: Sequence[str], suffix: str
) -> dict[str, list[int]]:
    own_tokenizer = copy.deepcopy(tokenizer)
    own_tokenizer.no_padding()
    own_tokenizer.no_truncation()
    # A text that spells the end token must not end there.
    own_tokenizer.encode_special_tokens = True
    # A source has a row for each of its targets, and is encoded once.
    distinct = list(dict.fromkeys(texts))
    ids_by_text: dict[str, list[int]] = {}
    for chunk in _chunks(distinct):
        suffixed = [text + suffix for text in chunk]
        rows = _encode_texts(own_tokenizer, suffixed, add_special_tokens=False)
        for text, row in zip(chunk, rows, strict=True):
            ids_by_text[text] = row.ids
    return ids_by_text


def _encode_texts(
    tokenizer: Tokenizer, texts: list, *, add_special_tokens: bool
) -> list[Encoding]:
    """Return the encodings of texts, or of pairs of them."""
    try:
        return tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
    except (KeyboardInterrupt, SystemExit):
        raise
    # A damaged tokenizer may load, and panic at a rare character: that is no Exception.
    except BaseException as error:
        first = reprlib.repr(texts[0])
        raise ValueError(
            f"expected a tokenizer for any text, got an error ({error}) in a text from "
            f"{first} on; fetch its files again"
        ) from None


def _check_lengths(texts: Sequence[str], lengths: np.ndarray, max_length: int) -> None:
    long_rows = int((lengths > max_length).sum())
    if long_rows:
        longest = reprlib.repr(texts[int(lengths.argmax())])
        raise ValueError(
            f"{long_rows:,} of {len(lengths):,} rows are longer than max_length "
            f"{max_length}: the longest, {longest}, has {lengths.max()} tokens; "
            "raise max_length, as far as the model has positions, or leave such rows "
            "out"
        )


def _chunks(texts: list) -> Iterator[list]:
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        yield chunk


def _join(parts: Sequence[ArrayLike]) -> np.ndarray:
    """The parts end to end; of no parts, an array of no tokens."""
    arrays = [np.zeros(0, np.int32)]
    arrays += [np.asarray(part, np.int32) for part in parts]
    return np.concatenate(arrays)
