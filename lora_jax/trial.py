"""One training with one seed, and its settings: the unit that studies are made of. What is called a cell is the settings of one.

Trials share what they have in common: the loaded base, the encoded data, and the compiled steps.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from lora_jax import data, methods, metrics, models, provenance, quant, results, train

Row = dict[str, Any]
Alias = tyro.conf.arg


@dataclass(frozen=True)
class Setup:
    """What all cells of a study have in common."""

    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, a directory with config.json and model.safetensors, or a hub id."""
    data: str = "rotten-tomatoes"
    """rotten-tomatoes, cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, or your FILE or folder (text, text_pair?, label)."""
    glue_dir: str | None = None
    """A local directory with the GLUE task's files, instead of the hub."""
    rows: int = 2000
    """Training rows: the first after a shuffle with seed 0. 0 is all."""
    validation_rows: int = 500
    """Validation rows the best epoch is chosen on, drawn likewise. 0 is all."""
    max_length: int = 64
    """Longest text, in tokens; what is longer is cut."""
    method: str = "lora"
    """Adaptation method: lora, full (everything learns), bitfit (biases learn), or one of your own in METHODS."""
    alpha: float = 16.0
    """LoRA's alpha: the update is scaled by alpha / r."""
    dropout: float = 0.0
    """Dropout on LoRA's input."""
    init: str = "gaussian"
    """LoRA's A: gaussian (the paper) or kaiming_uniform (the official code)."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(r)."""
    bias: str = "none"
    """Biases that learn too: none, all, lora_only."""
    learning_rate: Annotated[float, Alias(aliases=["--lr"])] = 1e-3
    """The highest; it rises during the warm-up, then falls to 0, both linearly."""
    epochs: int = 3
    """Times the training rows are gone through; the best on validation counts."""
    batch: int = 32
    """Rows a step."""
    accumulate: int = 1
    """Micro-batches a step, to save memory; divides batch."""
    weight_decay: float = 0.01
    """AdamW's, of matrices; biases and norms are not decayed."""
    warmup: float = 0.06
    """Share of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Global norm the trainable gradient is clipped to; 0 is none."""
    label_smoothing: float = 0.0
    """Share of the wanted probability spread over all classes."""
    hidden_dropout: float = 0.0
    """Dropout of the pretrained model's own."""
    quantize: Literal["none", "nf4", "nf4_double", "fp4", "fp4_double", "int4", "int4_affine", "int8"] = "none"
    """Data type the frozen matrices are stored in (QLoRA)."""
    offload: bool = False
    """Keep Adam's moments in host memory between updates, on a GPU or TPU (what QLoRA's paged optimiser is for)."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """What matrix products are taken in; auto is bfloat16 where the machine has such products, else float32."""


SETUP = Setup()
SMOKE = Setup(model="tiny", data="tiny", rows=0, validation_rows=0, max_length=16, epochs=1, batch=16)


class Bench(NamedTuple):
    """What cells share: the loaded model and the encoded data."""

    model: Any
    task: data.Task
    encoded: dict[str, data.Encoded]
    widths: tuple[int, ...]
    pad: int


@lru_cache(maxsize=2)
def _encoded(model: str, name: str, glue_dir: str | None, rows: int, validation: int, max_length: int) -> tuple:
    """(task, its splits encoded by the model's tokenizer)."""
    task, tokenizer = data.load(name, glue_dir=glue_dir), models.tokenizer(model)
    wanted = {"train": rows, "validation": validation}
    splits = {name: data.subset(part, wanted[name]) if wanted.get(name) else part for name, part in task.splits.items()}
    return task, {name: data.encode(tokenizer, examples, max_length=max_length) for name, examples in splits.items()}


@lru_cache(maxsize=2)
def _network(model: str, labels: int, quantize: str) -> Any:
    return models.load(model, labels=labels, quantize=None if quantize == "none" else quantize)[0]


def bench(cell: Mapping[str, Any]) -> Bench:
    """The cell's model and data; loaded once for all cells that have them in common."""
    names = ("model", "data", "glue_dir", "rows", "validation_rows", "max_length")
    task, encoded = _encoded(*(cell[name] for name in names))
    network = _network(cell["model"], len(task.labels) or 1, cell.get("quantize", "none"))
    if cell["max_length"] > (most := network.config.positions - network.config.offset):
        raise ValueError(f"max_length: {cell['model']} has positions for {most} tokens, got {cell['max_length']}")
    return Bench(network, task, encoded, data.widths(cell["max_length"]), network.config.pad)


def method(cell: Mapping[str, Any]) -> methods.Method:
    """The cell's adaptation method, stored so that all ranks up to 8, and all sets of attention matrices, compile once."""
    attention = "query,key,value,output"
    among = set(cell["targets"].split(",")) <= set(attention.split(","))
    among &= cell["bias"] != "lora_only"  # an idle adapter's bias would learn too
    given = {name: value for name, value in cell.items() if name != "method"}
    return methods.make(cell["method"], pad=8, beside=attention if among else None, **given)


def settings(cell: Mapping[str, Any]) -> train.Settings:
    """How the cell is trained."""
    return train.Settings(**{name: cell[name] for name in train.Settings._fields})


def adapt(cell: Mapping[str, Any]) -> tuple[Any, Any]:
    """The cell's model as training finds it, and the mask of what learns."""
    how = method(cell)
    adapted = how.adapt(jax.random.key(cell["seed"]), bench(cell).model)
    return adapted, methods.mask(adapted, how)


def score(cell: Mapping[str, Any], model: Any, split: str) -> dict[str, float]:
    """The task's metrics of a model, adapted or not, on a split of the cell's data."""
    shared = bench(cell)
    # Folded into the base, an adapter costs nothing, and all cells share one compiled forward pass. But not into a quantised one.
    model = model if quant.values(model) else methods.merge(model)
    how_wide = {"widths": shared.widths, "pad": shared.pad, "size": 2 * cell["batch"]}
    logits = train.predict(model, shared.encoded[split], compute=cell["compute"], **how_wide)
    return metrics.score(shared.task.metrics, logits, shared.encoded[split].label)


def run(
    cell: Mapping[str, Any], *, report: Callable[[train.Progress], None] = lambda at: None, resume: Path | None = None
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

    fitted = train.fit(
        adapted, mask, shared.encoded["train"], settings(cell),
        seed=cell["seed"], widths=shared.widths, pad=shared.pad, score=timed, report=report, resume=resume,
    )  # fmt: skip
    scores = {"validation": fitted.validation[fitted.best_epoch - 1]}
    scores |= {name: timed(fitted.model, name) for name in shared.encoded if name not in ("train", "validation")}
    elapsed = time.monotonic() - start
    row = {
        "config": dict(cell),
        "metrics": {f"{split}/{name}": value for split, found in scores.items() for name, value in found.items()},
        "examples": {split: len(encoded.label) for split, encoded in shared.encoded.items()},
        "parameters": methods.counts(adapted, method(cell))._asdict(),
        "best_epoch": fitted.best_epoch,
        "validation": fitted.validation,
        "loss": [float(part.mean()) for part in np.array_split(fitted.losses, cell["epochs"])],
        "steps": len(fitted.losses),
        "tokens": fitted.tokens,
        "seconds": round(elapsed, 3),
        "seconds_evaluating": round(spent, 3),
        "tokens_per_second": round(fitted.tokens / (elapsed - spent), 1),
        "peak_memory_mb": provenance.peak_mb(),
        "provenance": began(),
    }
    return row, fitted.model


@lru_cache(maxsize=1)
def began() -> Row:
    """What runs: the code as it was when the process began, whatever is edited since; the date is the study's beginning."""
    return results.provenance()
