"""One training with one seed, and its settings: the unit that studies are made of. What is called a cell is the settings of one.

Trials share what they have in common: the loaded base, the encoded data, and the compiled steps.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lora_jax import data, generation, methods, metrics, models, quant, train
from lora_jax.experiment import provenance
from lora_jax.experiment.config import (
    NLG,
    NLG_FULL,
    NLG_PAPER,
    NLG_SMOKE,
    SETUP,
    SMOKE,
    Setup,
)
from lora_jax.metrics import text
from lora_jax.models.decoder import Decoder
from lora_jax.train import classification, language_modeling

__all__ = ["NLG", "NLG_FULL", "NLG_PAPER", "NLG_SMOKE", "SETUP", "SMOKE", "Setup"]

Row = dict[str, Any]
NONE = "none"  # the method that trains nothing
FALLBACKS = (
    ("rotten-tomatoes-text", "the opinion of a film review in a word"),
    ("tiny-nlg", "made-up restaurants"),
)
BEAMS = 80  # rows generated at a time, beams included
EXAMPLES = 6  # texts that a row has beside their references


class Bench(NamedTuple):
    """What cells share: the loaded model and the data, cut to the rows asked for and encoded."""

    model: Any
    tokenizer: Any
    task: data.Task
    encoded: dict[str, data.Encoded]
    prompts: dict[
        str, list[list[int]]
    ]  # instead, of test splits whose targets are to be written
    widths: tuple[int, ...]
    pad: int


@lru_cache(maxsize=2)
def _task(
    name: str,
    glue_dir: str | None,
    data_dir: str | None,
    rows: int,
    validation: int,
    sources: int,
) -> data.Task:
    task, wanted = (
        data.load(name, data_dir=data_dir or glue_dir),
        {"train": rows, "validation": validation},
    )
    splits = {
        name: data.subset(part, wanted[name]) if wanted.get(name) else part
        for name, part in task.splits.items()
    }
    if task.generates:
        splits |= {
            name: data.subset_of_sources(part, sources)
            for name, part in splits.items()
            if name not in wanted
        }
    return task._replace(splits=splits)


@lru_cache(maxsize=2)
def _encoded(
    model: str, config: Any, max_length: int, loss_on: str, new: int, *of_task: Any
) -> tuple[dict, dict]:
    """The splits encoded by the model's tokenizer, and the sources of those that are not, to be continued by `new` tokens."""
    task, tokenizer = _task(*of_task), models.load_tokenizer(model)
    if not task.generates:
        return {
            name: data.encode(tokenizer, part, max_length=max_length)
            for name, part in task.splits.items()
        }, {}
    made, sources = {}, {}
    for name, part in task.splits.items():
        if name in ("train", "validation"):
            made[name] = data.encode_pairs(
                tokenizer, part, max_length=max_length, end=config.eos_ids[0]
            )
        else:
            sources[name] = data.encode_prompts(
                tokenizer, list(data.references(part)), max_length=max_length
            )
            generation.check_prompts(config, sources[name], new)
    everywhere = {
        name: part._replace(segments=np.ones_like(part.segments))
        for name, part in made.items()
    }
    return everywhere if loss_on == "all" else made, sources


@lru_cache(maxsize=2)
def _network(model: str, labels: int, quantize: str) -> tuple[Any, Any]:
    return models.load(
        model, labels=labels, quantize=None if quantize == "none" else quantize
    )


def bench(cell: Mapping[str, Any]) -> Bench:
    """The cell's model and data; loaded once for all cells that have them in common.

    Raises:
        ValueError: model, data and lengths do not go together.
    """
    cell = {**asdict(SETUP), **cell}
    of_task = tuple(
        cell[name]
        for name in (
            "data",
            "glue_dir",
            "data_dir",
            "rows",
            "validation_rows",
            "test_sources",
        )
    )
    task = _task(*of_task)
    network, tokenizer = _network(
        cell["model"], len(task.labels) or 1, cell["quantize"]
    )
    _check_kind(cell, task, network)
    if cell["max_length"] > (
        most := network.config.max_positions - network.config.offset
    ):
        raise ValueError(
            f"max_length: {cell['model']} has positions for {most} tokens, got {cell['max_length']}"
        )
    how = (cell[name] for name in ("max_length", "loss_on", "new_tokens"))
    encoded, prompts = _encoded(cell["model"], network.config, *how, *of_task)
    return Bench(
        network,
        tokenizer,
        task,
        encoded,
        prompts,
        data.widths(cell["max_length"]),
        network.config.pad,
    )


def _check_kind(cell: Mapping[str, Any], task: data.Task, network: Any) -> None:
    writes = isinstance(network, Decoder)
    if task.generates and not writes:
        raise ValueError(
            f"data: {cell['data']} is text to be generated, for a language model; {cell['model']} is an encoder"
        )
    if writes and not task.generates:
        raise ValueError(
            f"data: {cell['data']} has labels, for an encoder; {cell['model']} is a language model, which learns from "
            f"{', '.join(data.GENERATION_TASKS)} or a file with source and target"
        )
    if not writes:
        return
    known, ends = network.config.vocabulary, network.config.eos_ids
    if not ends or not all(0 <= end < known for end in ends):
        raise ValueError(
            f"model: expected a token in 0 … {known - 1} that ends a text (eos_token_id in config.json or "
            f"generation_config.json), {cell['model']} has {', '.join(map(str, ends)) or 'none'}"
        )


def method(cell: Mapping[str, Any]) -> methods.Method:
    """The cell's adaptation method, stored so that all ranks up to 8, and all sets of attention matrices, compile once."""
    attention = "query,key,value,output"
    among = set(cell["targets"].split(",")) <= set(attention.split(","))
    among &= cell["bias"] != "lora_only"  # an idle adapter's bias would learn too
    given = {name: value for name, value in cell.items() if name != "method"}
    return methods.make(
        cell["method"],
        rank_multiple=8,
        idle_targets=attention if among else None,
        **given,
    )


def settings(cell: Mapping[str, Any]) -> train.TrainConfig:
    """How the cell is trained."""
    names = {field.name for field in fields(train.TrainConfig)} - {"compute_dtype"}
    return train.TrainConfig(
        compute_dtype=cell["compute"], **{name: cell[name] for name in names}
    )


def had(setup: Setup) -> Setup:
    """The settings with data that can be had: where E2E is neither given nor to be fetched, another task.

    Raises:
        ValueError: the data has labels, and is not to be written.
    """
    if setup.data in data.LABELED_TASKS:
        raise ValueError(
            f"--data: {setup.data} has labels; --data {setup.data}{data.TEXT_SUFFIX} has them as words to be written"
        )
    if setup.data != "e2e" or setup.data_dir:
        return setup
    try:
        data.load("e2e")
        return setup
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return replace(setup, data=instead(setup))


def instead(setup: Setup) -> str:
    """A task that needs nobody's files, for a model of that size; a line says that it is taken."""
    task, what = FALLBACKS[setup.model == NLG_SMOKE.model]
    print(f"Instead: {task}, {what}", file=sys.stderr)
    return task


def decoding(cell: Mapping[str, Any]) -> generation.Decoding:
    """How the cell generates."""
    names = ("beam", "length_penalty", "no_repeat")
    return generation.Decoding(
        new_tokens=cell["new_tokens"], **{name: cell[name] for name in names}
    )


def adapt(cell: Mapping[str, Any]) -> tuple[Any, Any]:
    """The cell's model as training finds it, and the mask of what learns; None where nothing does."""
    if cell["method"] == NONE:
        return bench(cell).model, None
    how = method(cell)
    adapted = how.adapt(jax.random.key(cell["seed"]), bench(cell).model)
    return adapted, methods.mask(adapted, how)


def write(
    cell: Mapping[str, Any], model: Any, split: str
) -> tuple[dict[str, float], Row]:
    """The metrics of what a language model writes for the sources of a split, and what it wrote."""
    shared = bench(cell)
    wanted = data.references(shared.task.splits[split])
    done = generation.generate(
        methods.merge(model),
        shared.prompts[split],
        decoding(cell),
        eos_ids=shared.model.config.eos_ids,
        batch=max(1, BEAMS // cell["beam"]),
        compute_dtype=cell["compute"],
    )
    texts = [text.strip() for text in shared.tokenizer.decode_batch(done.tokens)]
    examples = [
        {"source": source, "output": text, "references": references}
        for (source, references), text in list(zip(wanted.items(), texts, strict=True))[
            :EXAMPLES
        ]
    ]
    facts = {
        "outputs": texts,
        "examples": examples,
        "seconds": round(done.seconds, 1),
        "steps": done.steps,
    }
    facts["tokens_per_second"] = round(done.tokens_per_second, 1)
    facts["missing"] = text.missing(shared.task.metrics)
    return text.score(shared.task.metrics, texts, list(wanted.values())), facts


def score(cell: Mapping[str, Any], model: Any, split: str) -> dict[str, float]:
    """The task's metrics of a model, adapted or not, on a split of the cell's data; a language model's loss where it is encoded."""
    shared = bench(cell)
    how_wide = {"widths": shared.widths, "pad": shared.pad, "size": 2 * cell["batch"]}
    if shared.task.generates:
        if split in shared.prompts:
            return write(cell, model, split)[0]
        return language_modeling.evaluate(
            model, shared.encoded[split], compute_dtype=cell["compute"], **how_wide
        )
    # Folded into the base, an adapter costs nothing, and all cells share one compiled forward pass. But not into a quantised one.
    model = model if quant.quantized_leaves(model) else methods.merge(model)
    logits = classification.predict(
        model, shared.encoded[split], compute_dtype=cell["compute"], **how_wide
    )
    return metrics.score(shared.task.metrics, logits, shared.encoded[split].label)


def run(
    cell: Mapping[str, Any],
    *,
    report: Callable[[train.Progress], None] = lambda at: None,
    resume: Path | None = None,
) -> tuple[Row, Any]:
    """Adapt, train, choose the best epoch on validation, score every other split: the finished row, and what was learnt.

    With `resume`, a folder, a training that takes minutes is saved there now and then, and goes on from there.
    """
    shared, spent, start = bench(cell), 0.0, time.monotonic()
    provenance.reset_peak()
    adapted, mask = adapt(cell)

    def timed(model: Any, split: str = "validation") -> dict[str, float]:
        nonlocal spent
        began = time.monotonic()
        found = score(cell, model, split)
        spent += time.monotonic() - began
        return found

    fitted = _fit(cell, adapted, mask, score=timed, report=report, resume=resume)
    scores, written = {"validation": fitted.validation[fitted.best_epoch - 1]}, {}
    for name in (
        name for name in shared.encoded if name not in ("train", "validation")
    ):
        scores[name] = timed(fitted.model, name)
    before = time.monotonic()
    for name in shared.prompts:
        scores[name], written[name] = write(cell, fitted.model, name)
    spent += time.monotonic() - before
    elapsed = time.monotonic() - start
    row = {
        "config": dict(cell),
        "metrics": {
            f"{split}/{name}": value
            for split, found in scores.items()
            for name, value in found.items()
        },
        "examples": {split: _size(shared, split) for split in shared.task.splits},
        "parameters": {"adapter": 0, "head": 0}
        if mask is None
        else methods.counts(adapted, method(cell))._asdict(),
        "best_epoch": fitted.best_epoch,
        "validation": fitted.validation,
        "loss": [
            float(part.mean())
            for part in np.array_split(fitted.losses, cell["epochs"])
            if len(part)
        ],
        "steps": len(fitted.losses),
        "tokens": fitted.tokens,
        "seconds": round(elapsed, 3),
        "seconds_evaluating": round(spent, 3),
        "tokens_per_second": round(fitted.tokens / (elapsed - spent), 1),
        **({"curve": _curve(fitted.losses), "written": written} if written else {}),
        "peak_memory_mb": provenance.peak_mb(),
        "provenance": began(),
    }
    return row, fitted.model


def _fit(
    cell: Mapping[str, Any], adapted: Any, mask: Any, *, score: Callable, **options: Any
) -> train.Fit:
    if mask is None:
        return train.Fit(adapted, 1, [score(adapted)], np.zeros(0, np.float32), 0)
    shared = bench(cell)
    loss = language_modeling if shared.task.generates else classification
    objective = train.Objective(
        loss.loss, shared.encoded["train"], shared.widths, shared.pad
    )
    return train.fit(
        adapted,
        mask,
        objective,
        settings(cell),
        seed=cell["seed"],
        score=score,
        **options,
    )


def _size(shared: Bench, split: str) -> int:
    """Rows or, where targets are written, sources."""
    return len(
        shared.prompts[split]
        if split in shared.prompts
        else shared.encoded[split].label
    )


def _curve(losses: np.ndarray, points: int = 64) -> list[list[float]]:
    """[step, mean loss of the steps up to it], at so many steps."""
    parts = [
        part for part in np.array_split(np.arange(len(losses)), points) if len(part)
    ]
    return [[int(part[-1]) + 1, round(float(losses[part].mean()), 4)] for part in parts]


@lru_cache(maxsize=1)
def began() -> Row:
    """What runs: the code as it was when the process began, whatever is edited since; the date is the study's beginning."""
    return provenance.provenance()
