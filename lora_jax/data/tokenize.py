"""Text to token ids, ragged: padding belongs to batches, which know what is beside a row."""

import copy
import reprlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tokenizers import Tokenizer

from lora_jax.data.read_table import refuse
from lora_jax.data.task import Examples, targets

CHUNK = 4096  # rows encoded at a time: a tokenizer's own records take some 5 kB a row

# Between source and target: a line break, because a tokenizer of byte pairs such as GPT-2's gives a source that ends in one
# and a target without a leading space the tokens of the whole text (in all 42,061 rows of E2E), so that a model meets
# what it was pretrained on though the two are tokenised apart. The LoRA authors put <|endoftext|> there, and a space
# before the target.
SEPARATOR = "\n"


class Encoded(NamedTuple):
    """N rows end to end: row i is `tokens[offsets[i]:offsets[i + 1]]`.

    `tokens` and `segments` (what the tokenizer calls type ids: for BERT 1 in the second text; of `encode_pairs`, 1 in the
    target) are int32 [S], `offsets` int64 [N + 1], and `label` [N] as in `Examples`.
    """

    tokens: np.ndarray
    segments: np.ndarray
    offsets: np.ndarray
    label: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [N]."""
        return np.diff(self.offsets)


def encode(tokenizer: Tokenizer, examples: Examples, *, max_length: int) -> Encoded:
    """Encode with the tokenizer's special tokens, cut to `max_length` tokens with these kept, the longer text first.

    Padding and truncation set on `tokenizer` are ignored, and it is left as it was. Raises ValueError when `max_length`
    has no room for a token of every text, or when a row has no tokens at all.
    """
    pairs = examples.pair is not None
    needed = tokenizer.num_special_tokens_to_add(pairs) + 1 + pairs
    if max_length < needed:
        what = "the special tokens and one of each text"
        raise ValueError(
            f"expected max_length {needed} or more ({what}), got {max_length}"
        )
    own = copy.deepcopy(tokenizer)
    own.no_padding()
    own.enable_truncation(max_length, strategy="longest_first")
    texts = (
        examples.text
        if examples.pair is None
        else list(zip(examples.text, examples.pair, strict=True))
    )
    tokens, segments, lengths = [], [], [0]
    for start in range(0, len(texts), CHUNK):
        rows = own.encode_batch_fast(texts[start : start + CHUNK])
        tokens.append(_joined([row.ids for row in rows]))
        segments.append(_joined([row.type_ids for row in rows]))
        lengths += [len(row) for row in rows]
    if 0 in lengths[1:]:
        row = lengths.index(0, 1) - 1
        raise ValueError(
            f"example {row} ({examples.text[row]!r}) has no tokens; expected one or more in every example"
        )
    return Encoded(
        _joined(tokens),
        _joined(segments),
        np.cumsum(lengths, dtype=np.int64),
        examples.label,
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
    """Sources and their targets for a model that continues: [start] + source and separator + target + [end] in a row.

    `segments` is 1 in the target and at `end`, what a loss is taken on. Nothing is cut, and no special tokens of the
    tokenizer's own are added or read out of texts. Raises ValueError on blank texts, naming the rows, and on rows longer
    than `max_length`.
    """
    sources = _prompts(tokenizer, examples.text, start, separator)
    wanted = [[*ids, end] for ids in _texts(tokenizer, targets(examples), "target")]
    parts = [part for pair in zip(sources, wanted, strict=True) for part in pair]
    sizes = np.array([len(part) for part in parts], np.int64)
    _fit(examples.text, sizes[::2] + sizes[1::2], max_length)
    tokens = np.fromiter(chain.from_iterable(parts), np.int32)
    segments = np.repeat(np.arange(len(parts), dtype=np.int32) % 2, sizes)
    return Encoded(
        tokens, segments, np.concatenate([[0], sizes.cumsum()[1::2]]), examples.label
    )


def prompts(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    *,
    max_length: int,
    start: int | None = None,
    separator: str = SEPARATOR,
) -> list[list[int]]:
    """What a model is to continue for each source: exactly how its row begins in `encode_pairs`. Raises as that does."""
    rows = _prompts(tokenizer, sources, start, separator)
    _fit(sources, np.array([len(row) for row in rows], np.int64), max_length)
    return rows


def _prompts(
    tokenizer: Tokenizer, sources: Sequence[str], start: int | None, separator: str
) -> list[list[int]]:
    begin = [] if start is None else [start]
    return [begin + ids for ids in _texts(tokenizer, sources, "source", separator)]


def _texts(
    tokenizer: Tokenizer, texts: Sequence[str], what: str, after: str = ""
) -> list[list[int]]:
    blank = [row for row, text in enumerate(texts) if not text.strip()]
    refuse([f"row {row}: expected a {what}, got {texts[row]!r}" for row in blank])
    own = copy.deepcopy(tokenizer)
    own.no_padding()
    own.no_truncation()
    own.encode_special_tokens = (
        True  # a text that spells the end token must not end there
    )
    distinct = list(
        dict.fromkeys(texts)
    )  # a source is there once for each of its targets
    ids: dict[str, list[int]] = {}
    for place in range(0, len(distinct), CHUNK):
        part = distinct[place : place + CHUNK]
        rows = own.encode_batch_fast(
            [text + after for text in part], add_special_tokens=False
        )
        ids |= {text: row.ids for text, row in zip(part, rows, strict=True)}
    refuse(
        [
            f"row {row}: the {what} {text!r} has no tokens"
            for row, text in enumerate(texts)
            if not ids[text]
        ]
    )
    return [ids[text] for text in texts]


def _fit(texts: Sequence[str], lengths: np.ndarray, most: int) -> None:
    if long := int((lengths > most).sum()):
        longest = reprlib.repr(texts[int(lengths.argmax())])
        raise ValueError(
            f"{long:,} of {len(lengths):,} rows are longer than max_length {most}: the longest, {longest}, "
            f"has {lengths.max()} tokens; raise max_length, or leave such rows out"
        )


def _joined(parts: Sequence[ArrayLike]) -> np.ndarray:
    return np.concatenate(
        [np.zeros(0, np.int32), *(np.asarray(part, np.int32) for part in parts)]
    )
