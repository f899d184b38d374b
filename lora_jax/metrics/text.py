"""Scores of generated texts against references, several for each, as the E2E challenge's script has them (LoRA, Table 3).

BLEU and NIST to the last digit, ROUGE-L, CIDEr and METEOR to a thousandth (`ptb_words` stands for a Java tokenizer); chrF and
TER are sacrebleu's, ROUGE-1 and -2 what rouge-score computes. BLEU, METEOR, ROUGE, chrF, TER and exact match are shares, NIST
is bits per word, CIDEr runs to 10. For the 630 outputs and 4,693 references of E2E they take 5 seconds on one core, METEOR
10 more, and TER 95: sacrebleu tries every shift of words, 20 ms for an output and a reference.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import zip_longest

from lora_jax.metrics import ngrams
from lora_jax.metrics.meteor import meteor, unavailable_reason

_NOTES = {
    "rouge_1": "F1 without stemming",
    "rouge_2": "F1 without stemming",
    "ter": "edits per word of the whole set; the WebNLG script takes the mean over texts",
}
_SQL = re.compile(
    r"""(?<!\w)(?:'(.*?)'|"(.*?)")(?!\w)|(\w+|[<>!=]+|[^\w\s])""", re.DOTALL
)


def bleu(outputs: list[str], references: list[list[str]]) -> float:
    """BLEU-4 in 0..1 (Papineni et al. 2002), blind to case, without smoothing."""
    from sacrebleu.metrics.bleu import BLEU

    # force: no warning that the texts look tokenised, which a final full stop is taken for
    return _sacrebleu(
        BLEU(lowercase=True, smooth_method="none", force=True), outputs, references
    )


def chrf(outputs: list[str], references: list[list[str]]) -> float:
    """chrF2 in 0..1 (Popović 2015): n-grams of 1 to 6 characters."""
    from sacrebleu.metrics.chrf import CHRF

    return _sacrebleu(CHRF(), outputs, references)


def ter(outputs: list[str], references: list[list[str]]) -> float:
    """Translation edit rate, 0 and up (Snover et al. 2006): edits to the nearest reference per word of the average one."""
    from sacrebleu.metrics.ter import TER

    return _sacrebleu(TER(), outputs, references)


def exact_match(outputs: list[str], references: list[list[str]]) -> float:
    """The share of outputs that are one of their references once both are `normalize_sql`."""
    rows = zip(map(normalize_sql, outputs), references, strict=True)
    return sum(output in map(normalize_sql, texts) for output, texts in rows) / len(
        outputs
    )


def normalize_sql(text: str) -> str:
    """SQL without what does not change it: case and spacing outside quotes, the kind of quotes, a last semicolon."""
    words = (
        word.lower() if word else f"'{single or double or ''}'"
        for single, double, word in _SQL.findall(text)
    )
    return " ".join(words).rstrip("; ")


METRICS: dict[str, Callable[[list[str], list[list[str]]], float]] = {
    "bleu": bleu,
    "nist": ngrams.nist,
    "meteor": meteor,
    "rouge_1": partial(ngrams.rouge_n, n=1),
    "rouge_2": partial(ngrams.rouge_n, n=2),
    "rouge_l": ngrams.rouge_l,
    "cider": ngrams.cider,
    "chrf": chrf,
    "ter": ter,
    "exact_match": exact_match,
}


def score(
    names: Iterable[str], outputs: list[str], references: list[list[str]]
) -> dict[str, float]:
    """Each named metric of outputs [N], each with one reference or more; an empty output is allowed, and scores nothing.

    A metric that cannot be computed on this machine is left out: `missing` says which, and why.
    Raises ValueError on an unknown name, no outputs, another number of rows, or a row without a reference.
    """
    names, outputs, references = list(names), list(outputs), list(references)
    _check(names, outputs, references)
    lost = missing(names)
    return {
        name: METRICS[name](outputs, references) for name in names if name not in lost
    }


def missing(names: Iterable[str]) -> dict[str, str]:
    """Of the named metrics those that cannot be computed on this machine, each with what to do about it."""
    reason = unavailable_reason() if "meteor" in names else None
    return {"meteor": reason} if reason else {}


def note(name: str) -> str | None:
    """In what a metric is not what the papers' scripts compute, a phrase for a table's header; None where it is."""
    return _NOTES.get(name)


def _sacrebleu(metric, outputs: list[str], references: list[list[str]]) -> float:
    # The first references of all outputs, the second ones ..., None where there are no more. Sorted, because chrF takes the
    # first of references that are equally good.
    return (
        metric.corpus_score(outputs, list(zip_longest(*map(sorted, references)))).score
        / 100
    )


def _check(names: list[str], outputs: list[str], references: list[list[str]]) -> None:
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], METRICS, 1)
        hint = f"; is {close[0]} meant?" if close else ""
        raise ValueError(
            f"expected metrics out of {', '.join(METRICS)}, got {', '.join(unknown)}{hint}"
        )
    if not outputs or len(outputs) != len(references):
        raise ValueError(
            f"expected outputs [N] and references [N], got {len(outputs):,} and {len(references):,}"
        )
    bad = [
        row
        for row, texts in enumerate(references)
        if isinstance(texts, str) or not any(map(str.strip, texts))
    ]
    if bad:
        raise ValueError(
            f"expected for each output a list of references that are not blank; {len(bad):,} of {len(outputs):,} rows "
            f"have none, such as row {bad[0]} with {references[bad[0]]!r}"
        )
