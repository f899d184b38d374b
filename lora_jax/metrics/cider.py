"""CIDEr-D: how alike an output and its references are in the words that matter.

As in the E2E challenge's script. An n-gram weighs more the fewer rows have it among
their references.
"""

import math
from collections import Counter

from lora_jax.metrics.words import (
    NgramCounts,
    References,
    Row,
    Texts,
    Words,
    count_rows,
    ptb_words,
    split_rows,
)

# The longest n-grams.
CIDER_ORDER = 4
# Words by which an output may be longer or shorter, as a standard deviation.
SIGMA = 6.0

# n-gram -> what it weighs.
_Weights = dict[tuple, float]
# n-gram -> how often it is there, times what it weighs.
_Vector = dict[tuple, float]


def cider(outputs: Texts, references: References) -> float:
    """Return CIDEr-D in 0..10 (Vedantam et al. 2015) of N outputs.

    It is the cosine of weighted n-grams, the mean over n = 1 to 4, references and
    outputs. It depends on the set: an n-gram of all rows weighs nothing, so that one
    row alone scores 0.
    """
    rows = split_rows(ptb_words, outputs, references)
    scores = []
    for n in range(1, CIDER_ORDER + 1):
        scores.append(_score_order(rows, n))
    return 10 * _mean(scores)


def _score_order(rows: list[Row], n: int) -> float:
    """Return the mean score of the n-grams of one length."""
    counts = count_rows(rows, n)
    weights = _weights(counts)
    scores = []
    for row, row_counts in zip(rows, counts, strict=True):
        # A mean over references, where other metrics take the best.
        output = _weigh(row_counts.output, weights, len(rows))
        row_scores = []
        references = zip(row.references, row_counts.references, strict=True)
        for text, text_counts in references:
            reference = _weigh(text_counts, weights, len(rows))
            penalty = _length_penalty(row.output, text)
            cosine = _cosine(output, reference)
            row_scores.append(penalty * cosine)
        scores.append(_mean(row_scores))
    return _mean(scores)


def _weights(counts: list[NgramCounts]) -> _Weights:
    """Return what each n-gram of the references weighs.

    That is the log of all rows over those that have it.
    """
    rows_by_ngram = Counter()
    for row in counts:
        # Once a row, in however many of its references.
        ngrams = set()
        for reference in row.references:
            ngrams.update(reference)
        rows_by_ngram.update(ngrams)
    weights = {}
    for ngram, row_count in rows_by_ngram.items():
        ratio = len(counts) / row_count
        weights[ngram] = math.log(ratio)
    return weights


def _weigh(
    counts: Counter,
    weights: _Weights,
    row_count: int,
) -> _Vector:
    # An output's n-gram may be in no reference: it weighs as if it were in one.
    rarest = math.log(row_count)
    vector = {}
    for ngram, count in counts.items():
        weight = weights.get(ngram, rarest)
        vector[ngram] = count * weight
    return vector


def _length_penalty(output: Words, reference: Words) -> float:
    # A Gauss curve of the difference in words.
    difference = len(output) - len(reference)
    variance = SIGMA**2
    return math.exp(-(difference**2) / (2 * variance))


def _cosine(output: _Vector, reference: _Vector) -> float:
    # The D of CIDEr-D: to say a word more often than the reference earns nothing.
    products = []
    for ngram in output.keys() & reference.keys():
        weight = min(output[ngram], reference[ngram])
        products.append(weight * reference[ngram])
    # fsum is exact: the order of the n-grams makes no difference.
    dot = math.fsum(products)
    if not dot:
        return 0.0
    # The lengths of the vectors.
    output_norm = math.hypot(*output.values())
    reference_norm = math.hypot(*reference.values())
    return dot / (output_norm * reference_norm)


def _mean(scores: list[float]) -> float:
    return math.fsum(scores) / len(scores)
