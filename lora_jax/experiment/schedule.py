"""A study: a grid of cells, each one trial, each one row.

An experiment gives the cells and draws their rows; what is between is here, the same for all: checking everything first,
training what is missing, recording, and keeping what was learnt for the experiments that analyse it.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lora_jax import data, generation, methods, models, results, train
from lora_jax.accounting import step_time
from lora_jax.checkpoints import adapter
from lora_jax.experiment import run as training
from lora_jax.experiment.progress import Display, clock, display
from lora_jax.experiment.run import Row
from lora_jax.nn import precision


def resolved(cells: Iterable[Row]) -> list[Row]:
    """The cells, each once, with what belongs to a row's identity too: what `auto` means here, where model and data are from.

    Raises:
        ValueError: what is wrong with the settings, all that can be known before model and data are loaded.
    """
    fast = precision.fast_dtype()
    cells = [
        {**cell, "compute": fast if cell["compute"] == "auto" else cell["compute"]}
        for cell in cells
    ]
    precheck(cells)
    sources = {
        name: models.source(name) for name in {cell["model"] for cell in cells}
    }  # once: it may ask a hub
    made = [
        {
            **cell,
            "model_source": sources[cell["model"]],
            "data_source": training.bench(cell).task.source,
        }
        for cell in cells
    ]
    return list({results.key(cell): cell for cell in made}.values())


def run(
    name: str,
    out: Path,
    cells: Sequence[Row],
    label: Callable[[Row], str],
    render: Callable[[list[Row], Path], Any],
    *,
    dry_run: bool = False,
    keep: bool = False,
) -> None:
    """Train the cells without a row in out/name.jsonl, recording each, and render. Exits with 1 when a cell diverged.

    Everything wrong with the settings is found before the first cell. Another process on the same file takes other
    cells; what it is busy with is waited for at the end. With `keep`, what each cell learns is kept too, for `trained`.
    """
    path, cells = out / f"{name}.jsonl", resolved(cells)
    adapted = check(cells)
    training.began()
    missing = results.pending(path, cells)
    print(
        f"{len(cells)} cells, {len(cells) - len(missing)} of them in {path} already",
        flush=True,
    )
    if dry_run:
        return print(plan(cells, missing, adapted, label))
    _make(out / "adapters")
    failed: list[Row] = []
    with display(len(missing)) as shown:
        for wait in (False, True):
            for cell in [
                cell for cell in results.pending(path, missing) if cell not in failed
            ]:
                with results.claim(path, cell, wait=wait) as mine:
                    failed += (
                        _train(cell, out, path, label(cell), shown, keep=keep)
                        if mine
                        else []
                    )
    if rows := results.read(path):
        try:
            print("wrote", *(str(written) for written in render(rows, out)))
        except OSError as error:
            again = "make room and run the same command again"
            raise OSError(
                f"could not draw into {out} ({error}); the {len(rows)} rows in {path} are safe: {again}"
            ) from error
    if failed:
        sys.exit(
            f"{len(failed)} cells diverged and have no row: {'; '.join(map(label, failed))}"
        )


def precheck(cells: Sequence[Row]) -> None:
    """What can be known without model and data; raises one ValueError with everything wrong."""
    if not cells:
        raise ValueError(
            "no cells: expected at least one value in each list (targets, ranks, seeds, methods)"
        )
    problems: dict[str, None] = {}
    for cell in cells:
        for name, least in (
            ("rows", 0),
            ("validation_rows", 0),
            ("test_sources", 0),
            ("max_length", 1),
            ("seed", 0),
        ):
            if cell.get(name, least) < least:
                problems[
                    f"{name}: expected {least} or more{' (0 is all)' if 'rows' in name else ''}, got {cell[name]}"
                ] = None
        task = data.base_name(cell["data"])
        if cell["glue_dir"] and task not in data.GLUE_TASKS:
            problems[
                f"glue_dir: goes with {', '.join(data.GLUE_TASKS)}, but data is {cell['data']!r}"
            ] = None
        if cell.get("data_dir") and task not in data.DATA_DIR_TASKS:
            said = ", ".join(data.DATA_DIR_TASKS)
            problems[f"data_dir: goes with {said}, but data is {cell['data']!r}"] = None
        if cell["glue_dir"] and cell.get("data_dir"):
            problems[
                "data_dir and glue_dir mean the same: expected one of them, "
                f"got {cell['data_dir']} and {cell['glue_dir']}"
            ] = None
        tests = [
            lambda: train.check(training.settings(cell)),  # noqa: B023
            lambda: generation.check(training.decoding(cell)),  # noqa: B023
        ]
        for test in [
            *tests,
            *(
                [lambda: training.method(cell)]  # noqa: B023
                if cell["method"] != training.NONE
                else []
            ),
        ]:
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
        shared = training.bench(cell)
        if cell["method"] == training.NONE:
            counts.append(methods.Counts(0, 0))
            continue
        how = training.method(cell)
        counts.append(
            methods.counts(how.adapt(jax.random.key(cell["seed"]), shared.model), how)
        )
    return counts


def plan(
    cells: Sequence[Row],
    missing: Sequence[Row],
    counts: Sequence[methods.Counts],
    label: Callable,
) -> str:
    """What a dry run prints: the cells, their parameters, and the time the missing ones will take, roughly."""
    lines = [f"{'':8}{'adapter':>12}{'head':>10}"]
    for cell, count in zip(cells, counts, strict=True):
        lines.append(
            f"{'to do' if cell in missing else 'done':8}{count.adapter:12,}{count.head:10,}  {label(cell)}"
        )
    took = 0.0
    for cell in missing:
        shared = training.bench(cell)
        tokens = {
            split: int(encoded.offsets[-1]) for split, encoded in shared.encoded.items()
        }
        tokens |= {
            split: len(rows) * cell["beam"] * cell["new_tokens"]
            for split, rows in shared.prompts.items()
        }
        epochs = 0 if cell["method"] == training.NONE else cell["epochs"]
        took += step_time.estimate_seconds(
            shared.model, tokens, epochs, cell["compute"]
        )
    return "\n".join(
        [*lines, f"about {clock(took)} for {len(missing)} cells on this machine"]
    )


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out: expected a folder that can be written, got {out} ({error.strerror})"
        ) from None
    if not os.access(out, os.W_OK):
        raise PermissionError(
            f"--out: expected a folder that can be written, got {out}"
        )


def _train(
    cell: Row, out: Path, record: Path | None, label: str, shown: Display, *, keep: bool
) -> list[Row]:
    """Train and record; the cell, if it diverged. What was learnt is there before its row is."""
    shown.start(label)
    kept = _kept(out, cell)
    resume = kept.with_suffix(".partial")
    try:
        # Two studies may have a cell in common: only one process at a time has its unfinished training.
        with results.claim(out / "adapters" / "cells.jsonl", cell, wait=True):
            row, model = training.run(cell, report=shown.step, resume=resume)
            row["key"] = results.key(cell)
            if keep and cell["method"] != training.NONE:
                results.write(
                    kept,
                    adapter.dump(
                        model, methods.mask(model, training.method(cell)), row
                    ),
                )
            if record:
                results.record(record, row)
            shutil.rmtree(resume, ignore_errors=True)
    except train.Diverged as error:
        shutil.rmtree(resume, ignore_errors=True)
        shown.finish(str(error))
        return [cell]
    shown.finish(
        ", ".join(f"{k} {v:.4f}" for k, v in row["metrics"].items())
        + f"  ({clock(row['seconds'])})"
    )
    return []


def _kept(out: Path, cell: Row) -> Path:
    return out / "adapters" / f"{results.key(cell)}.safetensors"


class Trained(NamedTuple):
    """A trained cell: the adapted model with what it learnt, and the training's row."""

    model: Any
    row: Row


def trained(
    out: Path, cells: Sequence[Row], label: Callable[[Row], str]
) -> list[Trained]:
    """The cells' models, for an analysis: as kept by an earlier study in out/adapters, trained and kept there if missing.

    Raises:
        ValueError: a setting is wrong, a cell diverged, or a kept file does not fit its cell.
    """
    check(cells)
    _make(out / "adapters")
    missing = untrained(out, cells)
    with display(len(missing)) as shown:
        for cell in missing:
            if _train(cell, out, None, label(cell), shown, keep=True):
                raise ValueError(
                    f"{label(cell)} diverged: there is no model to analyse"
                )
    return [_load(out, cell) for cell in cells]


def untrained(out: Path, cells: Sequence[Row]) -> list[Row]:
    """The cells of which nothing is kept in out/adapters, each once."""
    return list(
        {
            results.key(cell): cell for cell in cells if not _kept(out, cell).exists()
        }.values()
    )


def _load(out: Path, cell: Row) -> Trained:
    model, row = adapter.load(_kept(out, cell), *training.adapt(cell))
    if results.key(row["config"]) != results.key(cell):
        raise ValueError(
            f"{_kept(out, cell)}: expected what its cell learnt, got another's; delete it to train it anew"
        )
    return Trained(model, row)


def groups(rows: Iterable[Row], *, but: Sequence[str]) -> list[list[Row]]:
    """Rows alike in every setting but those named, the largest group first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(
            results.key({k: v for k, v in row["config"].items() if k not in but}), []
        ).append(row)
    return [
        found[name]
        for name in sorted(found, key=lambda name: (-len(found[name]), name))
    ]


def apart(groups: Sequence[Sequence[Row]]) -> list[str]:
    """What tells each group of rows from the others: `, learning_rate 0.01, rows 0`; nothing where there is but one.

    Of settings that all rows of a group share, those in which groups differ; the heading has model and data already.
    """
    shared = [
        {
            name: value
            for name, value in group[0]["config"].items()
            if all(row["config"][name] == value for row in group)
        }
        for group in groups
    ]
    said = ("model", "data", "model_source", "data_source")
    names = [
        name
        for name in shared[0]
        if name not in said
        and any(each.get(name) != shared[0][name] for each in shared)
    ]
    return [
        "".join(f", {name} {each[name]}" for name in names if name in each)
        for each in shared
    ]


def primary(row: Row) -> str:
    """The metric to show: the task's first, on test if there is one, else on validation."""
    names = list(row["metrics"])
    return next((name for name in names if name.startswith("test/")), names[0])
