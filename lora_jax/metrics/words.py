"""How a text becomes words, before it is compared with its references.

The E2E challenge's script (github:tuetschek/e2e-metrics) splits texts in two ways:
`mteval_words` for BLEU and NIST, `ptb_words` for METEOR, ROUGE-L and CIDEr.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

# Endings that are words of their own: "isn't" is "is" and "n't".
_CLITIC = r"n't|'(?:s|re|ve|ll|m|d)"
# A clitic, a word (inner signs as in "low-cost" belong to it), or a sign.
_WORD = re.compile(rf"(?:{_CLITIC})\b|[^\W_]+(?:[-.'/][^\W_]+)*|[^\w\s]")
_PUNCTUATION = frozenset("'`.?!,:;-\"")


# N outputs, or one output's references.
Texts = list[str]
# For each of the outputs its references.
References = list[Texts]
Words = list[str]


class Row(NamedTuple):
    """The words of an output, and of each of its references."""

    output: Words
    references: list[Words]


class NgramCounts(NamedTuple):
    """How often each n-gram is in an output, and in each of its references."""

    output: Counter
    references: list[Counter]


def mteval_words(text: str) -> Words:
    """Return lower-case words and signs as mteval-v13a has them."""
    # Imported here: most of the library does not need it.
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    return tokenize(text.lower()).split()


def ptb_words(text: str) -> Words:
    """Return lower-case words as the Penn treebank has them, without punctuation.

    The script runs Stanford's tokenizer: of the 51,426 texts of the E2E set, 99.87 %
    come out the same.
    """
    # Signs as Stanford's tokenizer writes them.
    text = text.lower().replace("’", "'").replace("£", "#")
    text = re.sub(rf"(?<=\w)({_CLITIC})\b", r" \1", text)
    words = []
    for word in _WORD.findall(text):
        if word not in _PUNCTUATION:
            words.append(word)
    return words


def split_rows(
    split: Callable[[str], Words],
    outputs: Texts,
    references: References,
) -> list[Row]:
    """Return the words of N outputs and of their references."""
    # A text may come several times; each is split where it comes.
    rows = []
    for output, texts in zip(outputs, references, strict=True):
        words = [split(text) for text in texts]
        row = Row(split(output), words)
        rows.append(row)
    return rows


def count_ngrams(words: Words, n: int) -> Counter:
    """Return how often each run of n words is in a text."""
    # The words, the words from the second on, and so on: side by side they are n-grams,
    # until the shortest of the lists ends.
    shifted = []
    for start in range(n):
        shifted.append(words[start:])
    return Counter(zip(*shifted, strict=False))


def count_rows(rows: list[Row], n: int) -> list[NgramCounts]:
    """Return the n-grams of each row."""
    counts = []
    for row in rows:
        references = [count_ngrams(text, n) for text in row.references]
        output = count_ngrams(row.output, n)
        counts.append(NgramCounts(output, references))
    return counts
