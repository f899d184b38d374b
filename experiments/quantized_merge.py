"""Where to merge an adapter whose base was quantised: three ways, and what each changes.

An adapter was trained beside the 4-bit weights W4 and makes up for their errors as well. `methods.merge` can fold it (1) into the
dequantised W4, (2) into the original W, which it has not seen, (3) into W4 and quantise the sum again, which rounds small updates
away. For each way and data type: how far the matrices are from W4 + ΔW, in units of ΔW; how much of ΔW is left; how far the
logits are from the unmerged model's; and the score. All is computed in float32, so that nothing else rounds.
QLoRA (Dettmers et al. 2023, arXiv 2305.14314) does not say how its adapters were merged: there is no published number for this.

    python experiments/quantized_merge.py
    python experiments/quantized_merge.py --kinds nf4 --rank 64 --seeds 0
    python experiments/quantized_merge.py --preset full             # all rows

Two cores (Zen 4): takes the adapters that quantization.py trained, or a minute for each that is missing; a minute for the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tyro.conf import OmitArgPrefixes

from lora_jax import analysis, methods, metrics, quant, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import plots
from lora_jax.train import classification

NAME = "quantized_merge"
WAYS = {
    "dequantized": "into dequantised weights",
    "original": "into original weights",
    "requantized": "quantised again",
}


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them; adapters are kept in its folder adapters."""
    dry_run: bool = False
    """Only say what would run."""
    kinds: tuple[str, ...] = ("nf4", "nf4_double", "fp4", "int4", "int8")
    """Data types of the base."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 8
    """LoRA's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PRESETS = {
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        kinds=("nf4",),
        rank=2,
        seeds=(0,),
        setup=run.SMOKE,
    ),
    "quick": Config(),
    "full": Config("full", setup=replace(run.SETUP, rows=0, validation_rows=0)),
}


def cells(config: Config) -> list[schedule.Row]:
    """The trainings: LoRA on a base of each kind, with each seed.

    Raises:
        ValueError: a kind there is not, or a method or base set elsewhere.
    """
    wrong = [
        f"kinds: expected some of {', '.join(quant.FORMATS)}, got {k!r}"
        for k in config.kinds
        if k not in quant.FORMATS
    ]
    for name, got, expected in (
        ("method", config.setup.method, "lora"),
        ("quantize", config.setup.quantize, "none"),
    ):
        wrong += [
            f"{name}: expected {expected} (--kinds says how the base is stored), got {got!r}"
        ] * (got != expected)
    if wrong:
        raise ValueError("; ".join(wrong))
    shared = {**asdict(config.setup), "targets": config.targets, "rank": config.rank}
    return [
        {**shared, "quantize": kind, "seed": seed}
        for kind in dict.fromkeys(config.kinds)
        for seed in config.seeds
    ]


def label(cell: schedule.Row) -> str:
    """The training in a line of progress."""
    return f"LoRA on {cell['quantize']} seed={cell['seed']}"


def evaluate(
    trained: schedule.Trained, configs: Sequence[schedule.Row]
) -> list[schedule.Row]:
    """A row for each way to merge a trained model."""
    cell, shared = trained.row["config"], run.bench(trained.row["config"])
    split = "test" if "test" in shared.encoded else "validation"
    how = {
        "widths": shared.widths,
        "pad": shared.pad,
        "size": 2 * cell["batch"],
        "compute_dtype": "float32",
    }
    encoded = shared.encoded[split]
    before = classification.predict(trained.model, encoded, **how)
    unmerged = metrics.score(shared.task.metrics, before, encoded.label)
    rows = []
    for config in configs:
        merged = methods.merge(
            trained.model, into=config["into"], original=original(config)
        )
        after, each = (
            classification.predict(merged, encoded, **how),
            analysis.merge_errors(trained.model, merged),
        )
        found = {
            f"{split}/{name}": value
            for name, value in metrics.score(
                shared.task.metrics, after, encoded.label
            ).items()
        }
        found |= {f"unmerged/{name}": value for name, value in unmerged.items()}
        for name in ("distance", "kept"):
            found[f"matrices/{name}"] = float(
                np.mean([at[name] for at in each.values()])
            )
        found |= analysis.prediction_change(before, after)
        found["size/bits"] = analysis.stored_bits(merged)
        about = {
            "layers": each,
            "examples": {split: len(encoded.label)},
            "provenance": run.began(),
        }
        rows.append({"config": config, "metrics": found, **about})
    return rows


def original(config: schedule.Row) -> Any:
    """The model before it was quantised, for the way that needs it."""
    if config["into"] != "original":
        return None
    return run.bench({**config, "quantize": "none"}).model


HEADER = """# Merging an adapter into a quantised base

Made by `python experiments/quantized_merge.py` from the rows of `quantized_merge.jsonl`. LoRA is trained on a base in the data type
and merged in three ways. *distance*: of the merged matrix from W4 + ΔW, over ||ΔW||; *ΔW left*: what the matrix has changed along
ΔW, over ||ΔW||; both means over adapted matrices and layers. *logits*: ||after - before|| / ||before - mean||; *same class*: of the
unmerged model's predictions. *bits*: of the blocks' matrices once merged (those without an adapter stay quantised, except in
*original*). All in float32. There is no published number for this.
"""
SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"


def groups(rows: Sequence[schedule.Row]) -> list[list[schedule.Row]]:
    """Rows of one model and setting."""
    return schedule.groups(rows, but=("quantize", "into", "seed"))


def summary(group: Sequence[schedule.Row]) -> pd.DataFrame:
    """A line for each data type and way, means over seeds."""
    metric, by = schedule.primary(group[0]), ["quantize", "into"]
    name = metric.partition("/")[2]
    columns = {
        "matrices/distance": "distance",
        "matrices/kept": "ΔW left",
        "logits/distance": "logits",
        "logits/largest": "largest",
        "logits/same_class": "same class, %",
        f"unmerged/{name}": "unmerged, %",
        metric: "merged, %",
        "size/bits": "bits",
    }
    table: Any = results.summary(group, by=by, metric=metric)[by]
    for key, said in columns.items():
        table[said] = results.summary(group, by=by, metric=key)["mean"] * (
            100 if said.endswith("%") else 1
        )
    table["logits error"] = results.summary(group, by=by, metric="logits/distance")[
        "error"
    ]
    order = {name: index for index, name in enumerate([*quant.FORMATS, *WAYS])}
    return table.sort_values(
        by, key=lambda column: column.map(order), ignore_index=True
    )


def section(group: Sequence[schedule.Row], table: pd.DataFrame, apart: str) -> str:
    """One group's table, what it says, and each layer of one seed."""
    config = group[0]["config"]
    digits = {
        "distance": 3,
        "ΔW left": 3,
        "logits": 4,
        "largest": 4,
        "same class, %": 1,
        "unmerged, %": 1,
        "merged, %": 1,
        "bits": 2,
    }
    text = results.markdown(table.drop(columns="logits error"), digits=digits)
    return (
        f"## {config['model']}, {config['data']}, {config['targets']}, r = {config['rank']}{apart}\n\n"
        f"{SMOKE if config['model'] == 'tiny' else ''}{text}\n{finding(table)}\n\n### By layer\n\n"
        f"Distance from W4 + ΔW over ||ΔW||, and ΔW left, means over seeds.\n\n{by_layer(group)}"
    )


def finding(table: pd.DataFrame) -> str:
    """Which way to take, by the logits; and what each does to the score."""
    ways: Any = table.groupby("into")["logits"].mean()
    change: Any = (
        (table["merged, %"] - table["unmerged, %"]).groupby(table["into"]).mean()
    )
    text = []
    for way in WAYS:
        if way in ways.index:
            text.append(
                f"{WAYS[way]} the logits move by {100 * ways[way]:.2g} % and the score by {change[way]:+.1f}"
            )
    return (
        f"Merged {', '.join(text)} (means over data types). **Recommended: merge {WAYS[ways.idxmin()]}**, where the function is "
        "to be kept; the matrices then take the bits of floating-point weights."
    )


def by_layer(group: Sequence[schedule.Row]) -> str:
    """A line for each data type, way and matrix; a column for each layer."""
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for row in group:
        for path, at in row["layers"].items():
            place = (
                row["config"]["quantize"],
                row["config"]["into"],
                path.removeprefix("blocks/"),
            )
            found.setdefault(place, []).append(np.array([at["distance"], at["kept"]]))
    order = {name: index for index, name in enumerate([*quant.FORMATS, *WAYS])}
    lines = []
    for place in sorted(found, key=lambda at: (order[at[0]], order[at[1]], at[2])):
        if place[1] != "dequantized":  # 0 and 1 throughout
            distance, kept = np.mean(found[place], axis=0)
            each = {
                f"layer {i}": f"{d:.2f}, {k:.2f}"
                for i, (d, k) in enumerate(zip(distance, kept, strict=True))
            }
            lines.append(
                dict(zip(("quantize", "into", "matrix"), place, strict=True)) | each
            )
    return results.markdown(pd.DataFrame(lines))


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/quantized_merge.md, .csv and .png from the rows alone."""
    found = groups(rows)
    tables = [summary(group) for group in found]
    sections = [
        section(*each)
        for each in zip(found, tables, schedule.apart(found), strict=True)
    ]
    return results.render(
        out / NAME,
        markdown="\n".join([HEADER, *sections]),
        table=pd.concat(tables),
        figure=figure(tables[0]),
    )


def figure(table: pd.DataFrame):
    """How far each way moves the logits, by data type."""
    series: Any = {
        WAYS[str(way)]: (list(part["quantize"]), part["logits"], part["logits error"])
        for way, part in table.groupby("into", sort=False)
    }
    return plots.bars_with_errors(
        series,
        title="Merging moves the logits",
        xlabel="data type of the base",
        ylabel="||after - before|| / ||before - mean||",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, merge in every way, and draw."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path = config.out / f"{NAME}.jsonl"
    trainings = schedule.resolved(cells(config))
    counts = schedule.check(trainings)
    wanted = [[{**cell, "into": way} for way in WAYS] for cell in trainings]
    missing = [
        (cell, todo)
        for cell, all in zip(trainings, wanted, strict=True)
        if (todo := results.pending(path, all))
    ]
    print(f"{len(trainings)} adapters, {len(missing)} of them to merge", flush=True)
    if config.dry_run:
        return print(
            schedule.plan(
                trainings, schedule.untrained(config.out, trainings), counts, label
            )
        )
    for trained, (_, todo) in zip(
        schedule.trained(config.out, [c for c, _ in missing], label),
        missing,
        strict=True,
    ):
        for row in evaluate(trained, todo):
            results.record(path, row)
    print("wrote", *render(results.read(path), config.out))


if __name__ == "__main__":
    cli.script(main)
