"""A study: a grid of cells, each one training with one seed, each one row.

An experiment gives the cells and draws their rows; what is between is here, the same for all: loading once,
training what is missing, recording. Cells share the loaded base, the encoded data and the compiled steps.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from lora_jax import data, estimate, methods, metrics, models, provenance, results, train
from lora_jax.progress import Display, clock, display

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
def _bench(model: str, data_name: str, glue_dir: str | None, rows: int, validation: int, max_length: int) -> Bench:
    task = data.load(data_name, glue_dir=glue_dir)
    network, tokenizer = models.load(model, labels=len(task.labels) or 1)
    wanted = {"train": rows, "validation": validation}
    splits = {name: data.subset(part, wanted[name]) if wanted.get(name) else part for name, part in task.splits.items()}
    encoded = {name: data.encode(tokenizer, examples, max_length=max_length) for name, examples in splits.items()}
    if max_length > (most := network.config.positions - network.config.offset):
        raise ValueError(f"max_length: {model} has positions for {most} tokens, got {max_length}")
    return Bench(network, task, encoded, data.widths(max_length), network.config.pad)


def bench(cell: Mapping[str, Any]) -> Bench:
    """The cell's model and data; loaded once for all cells that have them in common."""
    return _bench(*(cell[name] for name in ("model", "data", "glue_dir", "rows", "validation_rows", "max_length")))


def method(cell: Mapping[str, Any]) -> methods.Method:
    """The cell's adaptation method, stored so that all ranks up to 8, and all sets of attention matrices, compile once."""
    attention = "query,key,value,output"
    among = set(cell["targets"].split(",")) <= set(attention.split(","))
    given = {name: value for name, value in cell.items() if name != "method"}
    return methods.make(cell["method"], pad=8, beside=attention if among else None, **given)


def settings(cell: Mapping[str, Any]) -> train.Settings:
    """How the cell is trained."""
    return train.Settings(**{name: cell[name] for name in train.Settings._fields})


def train_cell(cell: Mapping[str, Any], report: Callable[[train.Progress], None] = lambda at: None) -> Row:
    """Adapt, train, choose the best epoch on validation, score every other split; the finished row."""
    shared, how = bench(cell), method(cell)
    provenance.reset_peak()
    start = time.monotonic()
    adapted = how.adapt(jax.random.key(cell["seed"]), shared.model)
    counts = methods.counts(adapted, how)
    chosen = "validation"
    spent = 0.0

    def score(model: Any, split: str = chosen) -> dict[str, float]:
        nonlocal spent
        began, encoded = time.monotonic(), shared.encoded[split]
        # Folded into the base, an adapter costs nothing, and all cells share one compiled forward pass.
        how_wide = {"widths": shared.widths, "pad": shared.pad, "size": 2 * cell["batch"]}
        logits = train.predict(methods.merge(model), encoded, compute=cell["compute"], **how_wide)
        spent += time.monotonic() - began
        return metrics.score(shared.task.metrics, logits, encoded.label)

    fitted = train.fit(
        adapted, methods.mask(adapted, how), shared.encoded["train"], settings(cell),
        seed=cell["seed"], widths=shared.widths, pad=shared.pad, score=score, report=report,
    )  # fmt: skip
    others = [name for name in shared.encoded if name not in ("train", chosen)]
    scores = {chosen: fitted.validation[fitted.best_epoch - 1], **{name: score(fitted.model, name) for name in others}}
    elapsed = time.monotonic() - start
    return {
        "config": dict(cell),
        "metrics": {f"{split}/{name}": value for split, found in scores.items() for name, value in found.items()},
        "examples": {split: len(encoded.label) for split, encoded in shared.encoded.items()},
        "parameters": counts._asdict(),
        "best_epoch": fitted.best_epoch,
        "validation": fitted.validation,
        "loss": [float(part.mean()) for part in np.array_split(fitted.losses, cell["epochs"])],
        "steps": len(fitted.losses),
        "tokens": fitted.tokens,
        "seconds": round(elapsed, 3),
        "seconds_evaluating": round(spent, 3),
        "tokens_per_second": round(fitted.tokens / (elapsed - spent), 1),
        "peak_memory_mb": provenance.peak_mb(),
        "provenance": _began(),
    }


@lru_cache(maxsize=1)
def _began() -> Row:
    """What runs: the code as it was when the process began, whatever is edited since; the date is the study's beginning."""
    return results.provenance()


def resolved(cells: Iterable[Row]) -> list[Row]:
    """The cells, each once, with what belongs to a row's identity too: what `auto` means here, where model and data are from.

    Raises:
        ValueError: what is wrong with the settings, all that can be known before model and data are loaded.
    """
    fast = train.fast_dtype()
    cells = [{**cell, "compute": fast if cell["compute"] == "auto" else cell["compute"]} for cell in cells]
    precheck(cells)
    sources = {
        name: models.source(name) for name in {cell["model"] for cell in cells}
    }  # once: a hub is asked each time
    made = [{**cell, "model_source": sources[cell["model"]], "data_source": bench(cell).task.source} for cell in cells]
    return list({results.key(cell): cell for cell in made}.values())


def run(
    name: str,
    out: Path,
    cells: Sequence[Row],
    label: Callable[[Row], str],
    render: Callable[[list[Row], Path], Any],
    *,
    dry_run: bool = False,
) -> None:
    """Train the cells without a row in out/name.jsonl, recording each, and render. Exits with 1 when a cell diverged.

    Everything wrong with the settings is found before the first cell. Another process on the same file takes other
    cells; what it is busy with is waited for at the end.
    """
    path, cells = out / f"{name}.jsonl", resolved(cells)
    adapted = check(cells)
    _began()
    missing = results.pending(path, cells)
    print(f"{len(cells)} cells, {len(cells) - len(missing)} of them in {path} already", flush=True)
    if dry_run:
        return print(plan(cells, missing, adapted, label))
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise PermissionError(f"--out: expected a folder that can be written, got {out}")
    failed: list[Row] = []
    with display(len(missing)) as shown:
        for wait in (False, True):
            for cell in [cell for cell in results.pending(path, missing) if cell not in failed]:
                with results.claim(path, cell, wait=wait) as mine:
                    failed += _train_and_record(path, cell, label(cell), shown) if mine else []
    if rows := results.read(path):
        try:
            print("wrote", *(str(written) for written in render(rows, out)))
        except OSError as error:
            again = "make room and run the same command again"
            raise OSError(
                f"could not draw into {out} ({error}); the {len(rows)} rows in {path} are safe: {again}"
            ) from error
    if failed:
        sys.exit(f"{len(failed)} cells diverged and have no row: {'; '.join(map(label, failed))}")


def precheck(cells: Sequence[Row]) -> None:
    """What can be known without model and data; raises one ValueError with everything wrong."""
    if not cells:
        raise ValueError("no cells: expected at least one value in each list of targets, ranks, seeds")
    problems: dict[str, None] = {}
    for cell in cells:
        for name, least in (("rows", 0), ("validation_rows", 0), ("max_length", 1), ("seed", 0)):
            if cell[name] < least:
                problems[
                    f"{name}: expected {least} or more{' (0 is all)' if 'rows' in name else ''}, got {cell[name]}"
                ] = None
        if cell["glue_dir"] and cell["data"] not in data.glue.SPECS:
            problems[f"glue_dir: goes with {', '.join(data.glue.SPECS)}, but data is {cell['data']!r}"] = None
        for test in (lambda: train.check(settings(cell)), lambda: method(cell)):  # noqa: B023
            try:
                test()
            except ValueError as error:
                problems[str(error)] = None
    if problems:
        raise ValueError("; ".join(problems))


def check(cells: Sequence[Row]) -> list[methods.Counts]:
    """Learning parameters of each cell, from shapes alone; finds every error of a setting before any long work."""
    counts = []
    for cell in cells:
        how = method(cell)
        counts.append(methods.counts(how.adapt(jax.random.key(cell["seed"]), bench(cell).model), how))
    return counts


def plan(cells: Sequence[Row], missing: Sequence[Row], counts: Sequence[methods.Counts], label: Callable) -> str:
    """What a dry run prints: the cells, their parameters, and the time the missing ones will take, roughly."""
    lines = [f"{'':8}{'adapter':>12}{'head':>10}"]
    for cell, count in zip(cells, counts, strict=True):
        lines.append(f"{'to do' if cell in missing else 'done':8}{count.adapter:12,}{count.head:10,}  {label(cell)}")
    took = 0.0
    for cell in missing:
        shared = bench(cell)
        tokens = {split: int(encoded.offsets[-1]) for split, encoded in shared.encoded.items()}
        took += estimate.seconds(shared.model, tokens, cell["epochs"], cell["compute"])
    return "\n".join([*lines, f"about {clock(took)} for {len(missing)} cells on this machine"])


def _train_and_record(path: Path, cell: Row, label: str, shown: Display) -> list[Row]:
    shown.start(label)
    try:
        row = train_cell(cell, shown.step)
    except train.Diverged as error:
        shown.finish(str(error))
        return [cell]
    results.record(path, row)
    shown.finish(", ".join(f"{k} {v:.4f}" for k, v in row["metrics"].items()) + f"  ({clock(row['seconds'])})")
    return []


def groups(rows: Iterable[Row], *, but: Sequence[str]) -> list[list[Row]]:
    """Rows alike in every setting but those named, the largest group first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(results.key({k: v for k, v in row["config"].items() if k not in but}), []).append(row)
    return [found[name] for name in sorted(found, key=lambda name: (-len(found[name]), name))]


def primary(row: Row) -> str:
    """The metric to show: the task's first, on test if there is one, else on validation."""
    names = list(row["metrics"])
    return next((name for name in names if name.startswith("test/")), names[0])
