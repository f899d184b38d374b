"""ROUGE: how much of its references an output has, by n-grams and by subsequences.

ROUGE-1 and ROUGE-2 are what the package rouge-score computes. ROUGE-L is as in the E2E
challenge's script, where recall weighs more than precision; rouge-score's is F1.
"""

import math
import re
from collections import Counter, defaultdict

from lora_jax.metrics.words import (
    References,
    Row,
    Texts,
    Words,
    count_ngrams,
    ptb_words,
    split_rows,
)

# In ROUGE-L recall weighs BETA² times as much as precision.
BETA = 1.2


def rouge_n(outputs: Texts, references: References, *, n: int) -> float:
    """Return ROUGE-n in 0..1 (Lin 2004), the mean over outputs.

    It is F1 of the n-grams against the best reference. Words are runs of a-z and 0-9
    and are not stemmed, which is what the package rouge-score does by default.
    """
    scores = []
    for output, texts in zip(outputs, references, strict=True):
        counts = _plain_ngrams(output, n)
        # The best reference counts.
        best = 0.0
        for text in texts:
            best = max(best, _f1(counts, _plain_ngrams(text, n)))
        scores.append(best)
    return _mean(scores)


def _plain_ngrams(text: str, n: int) -> Counter:
    # Accents and signs end a word here.
    words = re.findall("[a-z0-9]+", text.lower())
    return count_ngrams(words, n)


def _f1(output: Counter, reference: Counter) -> float:
    shared = (output & reference).total()
    # Neither has an n-gram: 0, and no division by 0.
    total = max(output.total() + reference.total(), 1)
    return 2 * shared / total


def rouge_l(outputs: Texts, references: References) -> float:
    """Return ROUGE-L in 0..1 (Lin 2004), the mean over N outputs.

    It is F of the longest common subsequence. Precision and recall are each the best
    over the references, and recall weighs more (BETA).
    """
    rows = split_rows(ptb_words, outputs, references)
    scores = []
    for row in rows:
        scores.append(_score_subsequence(row))
    return _mean(scores)


def _score_subsequence(row: Row) -> float:
    # In words, with each of the references.
    common = []
    for text in row.references:
        common.append(_common_length(row.output, text))
    if not any(common):
        return 0.0
    precision = max(common) / len(row.output)
    recall = 0.0
    for length, text in zip(common, row.references, strict=True):
        # A reference may be punctuation only.
        words = max(len(text), 1)
        recall = max(recall, length / words)
    # The weighted harmonic mean.
    weight = BETA**2
    product = (1 + weight) * precision * recall
    return product / (recall + weight * precision)


def _common_length(a: Words, b: Words) -> int:
    """Return the length of the longest common subsequence (Hyyrö 2004).

    A row of the usual table is the bits of one number: bit i is 0 where the length
    grows with word i of `a`.
    """
    places: dict[str, int] = defaultdict(int)
    for i, word in enumerate(a):
        places[word] |= 1 << i
    # A bit for each word of `a`, all of them 1 before the first word of `b`.
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        match = row & places[word]
        # The carry of the sum runs up to the next place where the length may grow.
        carried = row + match
        row = (carried | (row - match)) & full
    # A 0 for each word of the subsequence.
    return len(a) - row.bit_count()


def _mean(scores: list[float]) -> float:
    return math.fsum(scores) / len(scores)
