"""Text to token ids, ragged: padding belongs to batches, which know what is beside a row."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tokenizers import Tokenizer

from lora_jax.data.tasks import Examples

CHUNK = 4096  # rows encoded at a time: a tokenizer's own records take some 5 kB a row


class Encoded(NamedTuple):
    """N rows end to end: row i is `tokens[offsets[i]:offsets[i + 1]]`.

    `tokens` and `segments` (what the tokenizer calls type ids: for BERT 1 in the second text) are int32 [S], `offsets`
    int64 [N + 1], and `label` [N] as in `Examples`.
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
        raise ValueError(f"expected max_length {needed} or more ({what}), got {max_length}")
    own = copy.deepcopy(tokenizer)
    own.no_padding()
    own.enable_truncation(max_length, strategy="longest_first")
    texts = examples.text if examples.pair is None else list(zip(examples.text, examples.pair, strict=True))
    tokens, segments, lengths = [], [], [0]
    for start in range(0, len(texts), CHUNK):
        rows = own.encode_batch_fast(texts[start : start + CHUNK])
        tokens.append(_joined([row.ids for row in rows]))
        segments.append(_joined([row.type_ids for row in rows]))
        lengths += [len(row) for row in rows]
    if 0 in lengths[1:]:
        row = lengths.index(0, 1) - 1
        raise ValueError(f"example {row} ({examples.text[row]!r}) has no tokens; expected one or more in every example")
    return Encoded(_joined(tokens), _joined(segments), np.cumsum(lengths, dtype=np.int64), examples.label)


def _joined(parts: Sequence[ArrayLike]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *(np.asarray(part, np.int32) for part in parts)])
