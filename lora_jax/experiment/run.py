"""One training run: adapt, train, keep the best epoch, score every other split."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lora_jax import data, generation, methods, metrics, quant, train
from lora_jax.experiment import provenance
from lora_jax.experiment.workbench import Workbench
from lora_jax.metrics import text as text_metrics
from lora_jax.results.rows import Row
from lora_jax.train import language_modeling

GENERATED_TOGETHER = 80  # rows that are generated at a time, beams included
EXAMPLES_KEPT = 6  # generated texts that a row has beside their references
CURVE_POINTS = 64  # enough for a figure; all losses would make rows long


class Trained(NamedTuple):
    """A trained run: the model with what it learned, the training's row, its bench."""

    model: Any
    row: Row
    bench: Workbench


class Generated(NamedTuple):
    """What a language model wrote for a test split."""

    scores: dict[str, float]
    facts: Row  # the texts, how long it took, and which metrics are missing


def train_run(
    bench: Workbench,
    *,
    report: Callable[[train.Progress], None] | None = None,
    resume: Path | None = None,
) -> Trained:
    """Train the bench's run and return its model and row, without key and provenance.

    With `resume`, a folder, a training that takes minutes is saved there now and then,
    and continues from there.

    Raises:
        train.Diverged: the loss is not finite.
    """
    clock = _Stopwatch()
    provenance.reset_peak()
    # Counting adapts a model of its own: before the training, whose memory is measured.
    parameters = bench.counts()
    fit = _fit(bench, clock, report, resume)
    tests = _test(bench, fit.model, clock)
    # The best epoch's scores are known from training.
    scores = {"validation": fit.validation[fit.best_epoch - 1], **tests.scores}
    row: Row = {
        "config": bench.run.flat(),
        "metrics": flat_metrics(scores),
        "examples": {split: _size(bench, split) for split in bench.task.splits},
        "parameters": parameters._asdict(),
        **_course(fit, bench.run.train.epochs),
        **_times(fit, clock),
        "peak_memory_mb": provenance.peak_mb(),
    }
    # Of a language model also the curve, for one epoch is all it has.
    if tests.written:
        row["curve"] = _curve(fit.losses)
        row["written"] = tests.written
    return Trained(fit.model, row, bench)


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
    # Folded into its base an adapter costs nothing, and all runs share one compiled
    # forward pass. A quantized base would be changed by it.
    if not quant.quantized_leaves(model):
        model = methods.merge(model)
    logits = bench.predict(model, split, compute=compute)
    labels = bench.encoded[split].label
    return metrics.score(bench.task.metrics, logits, labels)


def generate(bench: Workbench, model: Any, split: str) -> Generated:
    """Generate a text for each source of a split, and score the texts."""
    decode = bench.run.decode
    # One text for each distinct source, held against all of its references.
    references = data.references(bench.task.splits[split])
    output = generation.generate(
        methods.merge(model),
        bench.prompts[split],
        decode,
        eos_ids=bench.model.config.eos_ids,
        batch=max(1, GENERATED_TOGETHER // decode.beam),
        compute_dtype=bench.run.train.compute_dtype,
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


def flat_metrics(
    scores: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
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
    """Return a row's metrics but for validation's, if there are others."""
    scores = {}
    for name, value in row["metrics"].items():
        # The best epoch was chosen by validation, so its score is too high.
        if not name.startswith("validation/"):
            scores[name] = value
    return scores or row["metrics"]


class _Tests(NamedTuple):
    """The scores of every split but those of training, and what was generated."""

    scores: dict[str, dict[str, float]]
    written: dict[str, Row]


class _Stopwatch:
    """Seconds since it was made, and those spent in what it measured."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.spent = 0.0

    def measured(self, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.monotonic()
        result = function(*arguments)
        self.spent += time.monotonic() - start
        return result

    def total(self) -> float:
        return time.monotonic() - self.start


def _fit(
    bench: Workbench,
    clock: _Stopwatch,
    report: Callable[[train.Progress], None] | None,
    resume: Path | None,
) -> train.Fit:
    """Train, with the validation's score after each epoch."""
    model, mask = bench.adapted()

    def score_validation(candidate: Any) -> dict[str, float]:
        return clock.measured(score, bench, candidate, "validation")

    # The pretrained model as it is: one epoch of no steps.
    if mask is None:
        return train.Fit(model, 1, [score_validation(model)], np.zeros(0, "f4"), 0)
    return train.fit(
        model,
        mask,
        bench.objective(),
        bench.run.train,
        seed=bench.run.seed,
        score=score_validation,
        report=report,
        resume=resume,
    )


def _test(bench: Workbench, model: Any, clock: _Stopwatch) -> _Tests:
    """Score the splits that training did not see."""
    scores: dict[str, dict[str, float]] = {}
    for split in bench.encoded:
        if split not in ("train", "validation"):
            scores[split] = clock.measured(score, bench, model, split)
    written: dict[str, Row] = {}
    for split in bench.prompts:
        generated = clock.measured(generate, bench, model, split)
        scores[split] = generated.scores
        written[split] = generated.facts
    return _Tests(scores, written)


def _course(fit: train.Fit, epochs: int) -> Row:
    """How the training went."""
    return {
        "best_epoch": fit.best_epoch,
        "validation": fit.validation,
        "loss": _loss_by_epoch(fit.losses, epochs),
        "steps": len(fit.losses),
        "tokens": fit.tokens,
    }


def _times(fit: train.Fit, clock: _Stopwatch) -> Row:
    """Seconds in all and evaluating, and the speed of training alone."""
    seconds = clock.total()
    training = seconds - clock.spent
    return {
        "seconds": round(seconds, 3),
        "seconds_evaluating": round(clock.spent, 3),
        "tokens_per_second": round(fit.tokens / training, 1),
    }


def _examples(references: Mapping[str, list[str]], texts: Sequence[str]) -> list[Row]:
    """The first generated texts, each beside its source and references."""
    examples = []
    pairs = zip(references, texts, strict=True)
    for source, text in itertools.islice(pairs, EXAMPLES_KEPT):
        example = {"source": source, "output": text, "references": references[source]}
        examples.append(example)
    return examples


def _size(bench: Workbench, split: str) -> int:
    """The examples of a split; where targets are generated, its sources."""
    if split in bench.prompts:
        return len(bench.prompts[split])
    return len(bench.encoded[split].label)


def _loss_by_epoch(losses: np.ndarray, epochs: int) -> list[float]:
    # All epochs have the same number of steps.
    parts = np.array_split(losses, epochs)
    return [float(part.mean()) for part in parts if len(part)]


def _curve(losses: np.ndarray) -> list[list[float]]:
    """[step, mean loss of the steps since the last point], at 64 points."""
    points = []
    # Short trainings have fewer steps than points: some of the parts are empty.
    for steps in np.array_split(np.arange(len(losses)), CURVE_POINTS):
        if len(steps):
            mean = float(losses[steps].mean())
            points.append([int(steps[-1]) + 1, round(mean, 4)])
    return points
