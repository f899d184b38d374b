"""NIST: the bits of information in the n-grams that outputs share with references.

As the E2E challenge's script computes it: nltk takes the references' words differently.
"""

import math
from collections import Counter
from functools import reduce
from operator import or_

from lora_jax.metrics.words import (
    NgramCounts,
    References,
    Row,
    Texts,
    count_rows,
    mteval_words,
    split_rows,
)

# The longest n-grams, in words.
NIST_ORDER = 5


def nist(outputs: Texts, references: References) -> float:
    """Return NIST in bits per word, 0 and up (Doddington 2002).

    Shared n-grams count by how rare they are among the references.
    """
    rows = split_rows(mteval_words, outputs, references)
    if not any(row.output for row in rows):
        return 0.0

    # Before a single word stands the empty n-gram, as often as there are words.
    words = _reference_total(count_rows(rows, 1))
    shorter = Counter({(): words.total()})
    score = 0.0
    for n in range(1, NIST_ORDER + 1):
        counts = count_rows(rows, n)
        occurrences = _reference_total(counts)
        score += _information(counts, shorter, occurrences)
        shorter = occurrences
    return score * _brevity(rows)


def _reference_total(counts: list[NgramCounts]) -> Counter:
    """Return how often each n-gram is in all references of all rows."""
    occurrences = Counter()
    for row in counts:
        for reference in row.references:
            occurrences.update(reference)
    return occurrences


def _information(
    counts: list[NgramCounts],
    shorter: Counter,
    occurrences: Counter,
) -> float:
    """Return the bits of the shared n-grams, for each n-gram of the outputs."""
    gains = []
    total = 0
    for row in counts:
        total += row.output.total()
        # An n-gram is shared as often as it is in the reference that has it most.
        shared = row.output & reduce(or_, row.references)
        for ngram, hits in shared.items():
            # Bits of the last word, if those before it are known.
            context = ngram[:-1]
            bits = math.log2(shorter[context] / occurrences[ngram])
            gains.append(hits * bits)
    return sum(gains) / max(total, 1)


def _brevity(rows: list[Row]) -> float:
    """Return the factor for outputs shorter than their average references."""
    # In words, of all rows.
    length = 0
    # Of the references' words.
    averages = []
    for row in rows:
        length += len(row.output)
        words = sum(map(len, row.references))
        averages.append(words / len(row.references))
    expected = sum(averages)
    if length >= expected:
        return 1.0
    # Outputs of 2/3 of the references' length lose half.
    return 0.5 ** (math.log(length / expected, 1.5) ** 2)
