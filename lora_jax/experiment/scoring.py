"""How well a model does on a split of its task: labels, losses, or generated texts."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lora_jax import data, generation, methods, metrics, quant
from lora_jax.experiment.workbench import Workbench
from lora_jax.metrics import text as text_metrics
from lora_jax.results.baselines import MAJORITY, PREDICTED
from lora_jax.results.rows import Row
from lora_jax.train import classification, language_modeling
from lora_jax.train.population import Population

GENERATED_TOGETHER = 80  # rows that are generated at a time, beams included
EXAMPLES_KEPT = 6  # generated texts that a row has beside their references


class Generated(NamedTuple):
    """What a language model wrote for a test split."""

    scores: dict[str, float]
    facts: Row  # the texts, how long it took, and which metrics are missing


def score(
    bench: Workbench, model: Any, split: str, *, compute: str | None = None
) -> dict[str, float]:
    """Return the task's metrics of a model, adapted or not, on a split.

    Of a split that is encoded with its targets, a language model has its loss.
    `compute` is the dtype of products, the run's own unless given.
    """
    # Analyses score quantized models in another dtype than the training's.
    compute = compute or bench.run.train.compute_dtype
    if split in bench.prompts:
        return generate(bench, model, split).scores
    if bench.task.generates:
        encoded = bench.encoded[split]
        return language_modeling.evaluate(
            model, encoded, compute_dtype=compute, **bench.eval_options
        )
    return _scores(bench, _logits(bench, model, split, compute), split)


def validate(bench: Workbench, model: Any) -> dict[str, float]:
    """Return the metrics on validation, and how many classes a classifier predicts.

    The latter, `PREDICTED`, is no score: a training that learned nothing predicts one.
    """
    if not bench.task.labels:
        return score(bench, model, "validation")
    compute = bench.run.train.compute_dtype
    logits = _logits(bench, model, "validation", compute)
    classes = np.unique(logits.argmax(axis=-1))
    return {**_scores(bench, logits, "validation"), PREDICTED: len(classes)}


def validate_many(
    benches: Sequence[Workbench], population: Population, cells: Sequence[int]
) -> list[dict[str, float]]:
    """Return what `validate` returns, of some cells of a population.

    Args:
        benches: of all cells.
        population: the models.
        cells: those to be scored, counted from 0.
    """
    by_cell = score_many(benches, population, "validation", cells)
    return [{**scores.metrics, **scores.predicted} for scores in by_cell]


def score_many(
    benches: Sequence[Workbench],
    population: Population,
    split: str,
    cells: Sequence[int],
) -> list["CellScores"]:
    """Return the metrics of some cells on a split that is encoded with its targets."""
    bench = benches[0]
    encoded = bench.encoded[split]
    options: Any = {
        "compute_dtype": bench.run.train.compute_dtype,
        **bench.eval_options,
    }
    if bench.task.generates:
        losses = language_modeling.evaluate_many(population, encoded, **options)
        return [CellScores(losses[cell], {}) for cell in cells]
    # [N, rows, C]
    logits = classification.predict_many(population, encoded, **options)
    results = []
    for cell in cells:
        scores = _scores(benches[cell], logits[cell], split)
        predicted: dict[str, float] = {}
        if bench.task.labels:
            classes = np.unique(logits[cell].argmax(axis=-1))
            predicted = {PREDICTED: len(classes)}
        results.append(CellScores(scores, predicted))
    return results


class CellScores(NamedTuple):
    """The metrics of a cell, and how many classes it predicts, if there are any."""

    metrics: dict[str, float]
    predicted: dict[str, float]


def majority(bench: Workbench, split: str) -> dict[str, float]:
    """Return the share of the largest class among a split's labels, as a metric.

    Nothing where there are no classes.
    """
    if not bench.task.labels:
        return {}
    labels = bench.encoded[split].label
    counts = np.unique(labels, return_counts=True)[1]
    return {MAJORITY: float(counts.max() / len(labels))}


def metric_names(bench: Workbench, split: str) -> Sequence[str]:
    """Return the names of the metrics of a split."""
    # Of text that is not generated there is only the loss.
    if bench.task.generates and split not in bench.prompts:
        return language_modeling.METRICS
    return bench.task.metrics


def generate(
    bench: Workbench,
    model: Any,
    split: str,
    written: Callable[[int, int], None] | None = None,
) -> Generated:
    """Generate a text for each source of a split, and score the texts.

    `written` is called with the number of texts that are there, and that of all.
    """
    decode = bench.run.decode
    # One text for each distinct source, held against all of its references.
    references = data.references(bench.task.splits[split])

    def report(count: int) -> None:
        if written is not None:
            written(count, len(references))

    # The first batch is compiled, which takes longest: until then there are none.
    report(0)
    output = generation.generate(
        methods.merge(model),
        bench.prompts[split],
        decode,
        eos_ids=bench.model.config.eos_ids,
        batch=max(1, GENERATED_TOGETHER // decode.beam),
        compute_dtype=bench.run.train.compute_dtype,
        report=report,
    )
    # Tokenizers of words begin a text with a space.
    decoded = bench.tokenizer.decode_batch(output.tokens)
    texts = [text.strip() for text in decoded]
    facts = {
        "outputs": texts,
        "examples": _examples(references, texts),
        "seconds": round(output.seconds, 1),
        "steps": output.steps,
        "tokens_per_second": round(output.tokens_per_second, 1),
        "missing": text_metrics.missing(bench.task.metrics),
    }
    scores = text_metrics.score(bench.task.metrics, texts, list(references.values()))
    return Generated(scores, facts)


def flat_metrics(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return {"test/accuracy": …} of {"test": {"accuracy": …}}, as rows have them."""
    # Splits in their order, each with the metrics in the task's order.
    flat = {}
    for split, by_name in scores.items():
        for name, value in by_name.items():
            flat[f"{split}/{name}"] = value
    return flat


def prefixed(split: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Return {"test/accuracy": …} of "test" and {"accuracy": …}."""
    return flat_metrics({split: scores})


def final_scores(row: Row) -> dict[str, float]:
    """Return a row's scores but for validation's, if there are others."""
    scores = {}
    tests = {}
    for name, value in row["metrics"].items():
        split, _, metric = name.partition("/")
        # A baseline, and not what the run scored.
        if metric == MAJORITY:
            continue
        scores[name] = value
        # The best epoch was chosen by validation, so its score is too high.
        if split != "validation":
            tests[name] = value
    return tests or scores


def _logits(bench: Workbench, model: Any, split: str, compute: str) -> np.ndarray:
    """A classifier's logits [N, C] on a split."""
    # Folded into its base an adapter costs nothing, and all runs share one compiled
    # forward pass. A quantized base would be changed by it.
    if not quant.quantized_leaves(model):
        model = methods.merge(model)
    return bench.predict(model, split, compute=compute)


def _scores(bench: Workbench, logits: np.ndarray, split: str) -> dict[str, float]:
    labels = bench.encoded[split].label
    return metrics.score(bench.task.metrics, logits, labels)


def _examples(references: Mapping[str, list[str]], texts: Sequence[str]) -> list[Row]:
    """The first generated texts, each beside its source and references."""
    examples = []
    pairs = zip(references, texts, strict=True)
    for source, text in itertools.islice(pairs, EXAMPLES_KEPT):
        example = {"source": source, "output": text, "references": references[source]}
        examples.append(example)
    return examples
