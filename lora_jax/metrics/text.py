"""Scores of generated texts against references, several for each (LoRA, Table 3).

They are those of the E2E challenge's script: BLEU and NIST to the last digit, ROUGE-L,
CIDEr and METEOR to a thousandth (`words.ptb_words` stands for a Java tokenizer). chrF
and TER are sacrebleu's, ROUGE-1 and ROUGE-2 what rouge-score computes.

NIST is in bits per word, CIDEr runs to 10, all others are shares. For the 630 outputs
and 4,693 references of E2E they take 5 seconds on one core, METEOR 10 more, and TER 95:
sacrebleu tries every shift of words, which takes 20 ms for an output and a reference.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import zip_longest
from typing import Any

from lora_jax.metrics.cider import cider
from lora_jax.metrics.meteor import meteor, unavailable_reason
from lora_jax.metrics.names import check_names
from lora_jax.metrics.nist import nist
from lora_jax.metrics.rouge import rouge_l, rouge_n

# sacrebleu is imported in the functions: most of the library does not need it.

# In what a metric is not what the papers' scripts compute.
_NOTES = {
    "rouge_1": "F1 without stemming",
    "rouge_2": "F1 without stemming",
    "ter": (
        "edits per word of the whole set; the WebNLG script takes the mean over texts"
    ),
}
# A text in quotes of either kind, or a word, an operator or a sign.
_SQL = re.compile(
    r"""(?<!\w)(?:'(.*?)'|"(.*?)")(?!\w)|(\w+|[<>!=]+|[^\w\s])""", re.DOTALL
)


def bleu(outputs: list[str], references: list[list[str]]) -> float:
    """Return BLEU-4 in 0..1 (Papineni et al. 2002), without case and smoothing."""
    from sacrebleu.metrics.bleu import BLEU

    # `force` prevents a warning that the texts look tokenized: a full stop at the end
    # of each is taken for that.
    metric = BLEU(lowercase=True, smooth_method="none", force=True)
    return _score_corpus(metric, outputs, references)


def chrf(outputs: list[str], references: list[list[str]]) -> float:
    """Return chrF2 in 0..1 (Popović 2015): n-grams of 1 to 6 characters."""
    from sacrebleu.metrics.chrf import CHRF

    return _score_corpus(CHRF(), outputs, references)


def ter(outputs: list[str], references: list[list[str]]) -> float:
    """Return the translation edit rate, 0 and up (Snover et al. 2006).

    That is the edits to the nearest reference for each word of the average one.
    """
    from sacrebleu.metrics.ter import TER

    return _score_corpus(TER(), outputs, references)


def exact_match(outputs: list[str], references: list[list[str]]) -> float:
    """Return the share of outputs that are one of their references, both normalized."""
    # Whatever is no SQL has its case and spacing normalized too.
    hits = 0
    for output, texts in zip(outputs, references, strict=True):
        if normalize_sql(output) in map(normalize_sql, texts):
            hits += 1
    return hits / len(outputs)


def normalize_sql(text: str) -> str:
    """Return SQL without what does not change it.

    That is case and spacing outside quotes, the kind of quotes, and a last semicolon.
    """
    words = []
    for single, double, word in _SQL.findall(text):
        # Quoted text keeps its case; an empty one is a word too.
        words.append(word.lower() if word else f"'{single or double}'")
    return " ".join(words).rstrip("; ")


METRICS: dict[str, Callable[[list[str], list[list[str]]], float]] = {
    "bleu": bleu,
    "nist": nist,
    "meteor": meteor,
    "rouge_1": partial(rouge_n, n=1),
    "rouge_2": partial(rouge_n, n=2),
    "rouge_l": rouge_l,
    "cider": cider,
    "chrf": chrf,
    "ter": ter,
    "exact_match": exact_match,
}


def score(
    names: Iterable[str],
    outputs: list[str],
    references: list[list[str]],
) -> dict[str, float]:
    """Return the named metrics of outputs [N], each with one reference or more.

    An empty output is allowed and scores nothing. A metric that cannot be computed on
    this machine is left out: `missing` says which, and why.

    Raises:
        ValueError: a name is unknown, there are no outputs or another number of
            references, or an output has no reference.
    """
    # Any iterables are welcome, and are gone through several times.
    names, outputs, references = list(names), list(outputs), list(references)
    check_names(names, METRICS)
    _check_rows(outputs, references)
    # METEOR is in Java, which a machine may not have.
    unavailable = missing(names)
    scores = {}
    for name in names:
        if name not in unavailable:
            scores[name] = METRICS[name](outputs, references)
    return scores


def missing(names: Iterable[str]) -> dict[str, str]:
    """Return which of the metrics cannot be computed here, and what to do about it."""
    if "meteor" not in names:
        return {}
    reason = unavailable_reason()
    return {"meteor": reason} if reason else {}


def note(name: str) -> str | None:
    """Return in what a metric is not what the papers' scripts compute.

    It is a phrase for a table's header, and None for a metric that is the same.
    """
    return _NOTES.get(name)


def _score_corpus(
    metric: Any,
    outputs: list[str],
    references: list[list[str]],
) -> float:
    # Sorted, because chrF takes the first of references that are equally good.
    ordered = map(sorted, references)
    # sacrebleu takes the first references of all outputs, then the second ones, and so
    # on; None where an output has no more.
    streams = list(zip_longest(*ordered))
    return metric.corpus_score(outputs, streams).score / 100


def _check_rows(outputs: list[str], references: list[list[str]]) -> None:
    if not outputs or len(outputs) != len(references):
        raise ValueError(
            f"expected outputs [N] and references [N], got {len(outputs):,} and "
            f"{len(references):,}"
        )
    bad = []
    for row, texts in enumerate(references):
        # A text alone would be taken for a list of its letters.
        if isinstance(texts, str) or not any(map(str.strip, texts)):
            bad.append(row)
    if bad:
        first = bad[0]
        raise ValueError(
            "expected for each output a list of references that are not blank; "
            f"{len(bad):,} of {len(outputs):,} rows have none, such as row {first} "
            f"with {references[first]!r}"
        )
