"""Which words an output shares with its references: NIST, ROUGE and CIDEr-D as the E2E challenge's script computes them.

That script (github:tuetschek/e2e-metrics) splits words in two ways: `mteval` for BLEU and NIST, `ptb` for METEOR, ROUGE-L and
CIDEr. The libraries do not reach its numbers: nltk's NIST takes the references' words differently, rouge-score's ROUGE-L is F1.
Every function takes N outputs and, for each, its references; none of them is checked here, see `text_metrics.score`.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import reduce
from itertools import chain
from operator import or_

ORDERS = {"nist": 5, "cider": 4}  # the longest n-grams
BETA = 1.2  # of ROUGE-L: recall weighs BETA² times as much as precision
SIGMA = 6.0  # of CIDEr-D: words by which an output may be longer or shorter

Row = tuple[
    list[str], list[list[str]]
]  # the words of an output and of each of its references

_CLITIC = r"n't|'(?:s|re|ve|ll|m|d)"
_WORD = re.compile(rf"(?:{_CLITIC})\b|[^\W_]+(?:[-.'/][^\W_]+)*|[^\w\s]")
_DROPPED = frozenset("'`.?!,:;-\"")


def mteval_words(text: str) -> list[str]:
    """Lower-case words and signs of mteval-v13a, by which BLEU and NIST count."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()(text.lower()).split()


def ptb_words(text: str) -> list[str]:
    """Lower-case words as the Penn treebank splits them ("isn't": is, n't), without punctuation.

    The script runs Stanford's tokenizer: 99.87 % of the 51,426 texts of the E2E set come out the same.
    """
    apart = re.sub(
        rf"(?<=\w)({_CLITIC})\b",
        r" \1",
        text.lower().replace("’", "'").replace("£", "#"),
    )
    return [word for word in _WORD.findall(apart) if word not in _DROPPED]


def nist(outputs: list[str], references: list[list[str]]) -> float:
    """NIST in bits per word, 0 and up (Doddington 2002): shared n-grams by how rare they are among the references."""
    words = _split(mteval_words, outputs, references)
    length = sum(len(output) for output, _ in words)
    expected = sum(sum(map(len, texts)) / len(texts) for _, texts in words)
    if not length:
        return 0.0
    shorter = {(): sum(len(text) for _, texts in words for text in texts)}
    score = 0.0
    for n in range(1, ORDERS["nist"] + 1):
        counts = [
            (_grams(output, n), [_grams(text, n) for text in texts])
            for output, texts in words
        ]
        seen = Counter(
            chain.from_iterable(
                text.elements() for _, texts in counts for text in texts
            )
        )
        shared = chain.from_iterable(
            (output & reduce(or_, texts)).items() for output, texts in counts
        )
        gain = sum(
            hits * math.log2(shorter[gram[:-1]] / seen[gram]) for gram, hits in shared
        )
        score += gain / max(sum(output.total() for output, _ in counts), 1)
        shorter = seen
    # Outputs of 2/3 of the references' length lose half.
    return score * (
        0.5 ** (math.log(length / expected, 1.5) ** 2) if length < expected else 1.0
    )


def rouge_n(outputs: list[str], references: list[list[str]], *, n: int) -> float:
    """ROUGE-n in 0..1 (Lin 2004): F1 of the n-grams against the best reference, the mean over outputs.

    Words are runs of a-z and 0-9 and are not stemmed, which is what the package rouge-score does unless told otherwise.
    """

    def grams(text: str) -> Counter:
        return _grams(re.findall("[a-z0-9]+", text.lower()), n)

    def f1(a: Counter, b: Counter) -> float:
        return 2 * (a & b).total() / max(a.total() + b.total(), 1)

    pairs = zip(map(grams, outputs), references, strict=True)
    return _mean(
        [max(f1(output, grams(text)) for text in texts) for output, texts in pairs]
    )


def rouge_l(outputs: list[str], references: list[list[str]]) -> float:
    """ROUGE-L in 0..1 (Lin 2004): F of the longest common subsequence, the mean over outputs.

    As in the script, precision and recall are each the best over the references and recall weighs more (BETA).
    """
    return _mean(
        [
            _rouge_l(output, texts)
            for output, texts in _split(ptb_words, outputs, references)
        ]
    )


def cider(outputs: list[str], references: list[list[str]]) -> float:
    """CIDEr-D in 0..10 (Vedantam et al. 2015): cosine of n-grams weighted by in how few rows they occur, n = 1 to 4.

    It depends on the set: an n-gram of every row weighs nothing, so that one row alone scores 0.
    """
    words = _split(ptb_words, outputs, references)
    return 10 * _mean([_cider(words, n) for n in range(1, ORDERS["cider"] + 1)])


def _split(
    split: Callable[[str], list[str]], outputs: list[str], references: list[list[str]]
) -> list[Row]:
    return [
        (split(output), list(map(split, texts)))
        for output, texts in zip(outputs, references, strict=True)
    ]


def _grams(words: list[str], n: int) -> Counter:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _mean(scores: list[float]) -> float:
    return math.fsum(scores) / len(scores)


def _rouge_l(output: list[str], texts: list[list[str]]) -> float:
    common = [_common(output, text) for text in texts]
    if not any(common):
        return 0.0
    precision = max(common) / len(output)
    recall = max(
        length / max(len(text), 1) for length, text in zip(common, texts, strict=True)
    )
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence, a row of the table as the bits of one number (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for i, word in enumerate(a):
        places[word] |= 1 << i
    row = full = (1 << len(a)) - 1
    for word in b:
        match = row & places[word]
        row = (row + match | row - match) & full
    return len(a) - row.bit_count()


def _cider(words: list[Row], n: int) -> float:
    counts = [
        (_grams(output, n), [_grams(text, n) for text in texts])
        for output, texts in words
    ]
    rows = Counter(chain.from_iterable(reduce(or_, texts) for _, texts in counts))

    def weighted(grams: Counter) -> dict[tuple, float]:
        return {
            gram: number * math.log(len(words) / max(rows[gram], 1))
            for gram, number in grams.items()
        }

    scores = []
    for (output, texts), (said, wanted) in zip(words, counts, strict=True):
        a = weighted(said)
        penalties = [
            math.exp(-((len(output) - len(text)) ** 2) / (2 * SIGMA**2))
            for text in texts
        ]
        alike = [_cosine(a, weighted(grams)) for grams in wanted]
        scores.append(_mean([p * s for p, s in zip(penalties, alike, strict=True)]))
    return _mean(scores)


def _cosine(a: dict[tuple, float], b: dict[tuple, float]) -> float:
    # The D of CIDEr-D: to say a word more often than the reference earns nothing.
    dot = math.fsum(min(a[gram], b[gram]) * b[gram] for gram in a.keys() & b.keys())
    return dot / (math.hypot(*a.values()) * math.hypot(*b.values())) if dot else 0.0
