"""LoRA's own matrices in 4 or 8 bits, for shipping: what the file saves, and what it costs.

QLoRA stores the base in 4 bits; the adapter trained on it is float32. Here A and B are rounded too when they are written
(`checkpoints.learnt.dump`, blocks along their long axes) and are floats again once read, not trained any further. For each data
type: the bytes of the whole file (head, row and header included), the error of ΔW, how far the logits are from those of the float
adapter, and the score. All is computed in float32, so that nothing else rounds. Idle adapters, there to share a compiled program,
are left out of the file; a rank that is no multiple of 8 is filled up to one.
QLoRA (Dettmers et al. 2023, arXiv 2305.14314, equation 5) has A and B in 16 bits and no number for fewer: there is no verdict.

    python experiments/quantized_adapters.py
    python experiments/quantized_adapters.py --quantize none --rank 64 --kinds nf4
    python experiments/quantized_adapters.py --preset full          # all rows

Two cores (Zen 4): takes the adapters that quantization.py trained, or a minute for each that is missing; two minutes for the rest.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tyro.conf import OmitArgPrefixes

from lora_jax import analysis, methods, metrics, quant, results, tree
from lora_jax.checkpoints import adapter
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import plots
from lora_jax.train import classification

NAME = "quantized_adapters"
FLOAT = "none"  # the setting that leaves A and B as they are


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them; adapters are kept in its folder adapters."""
    dry_run: bool = False
    """Only say what would run."""
    kinds: tuple[str, ...] = ("int8", "int4", "fp4", "nf4", "nf4_double")
    """Data types of A and B, beside float32. That of the base is --quantize."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 8
    """LoRA's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    setup: OmitArgPrefixes[run.Setup] = field(
        default_factory=lambda: run.Setup(quantize="nf4_double")
    )


PRESETS = {
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        rank=2,
        seeds=(0,),
        setup=replace(run.SMOKE, quantize="nf4_double"),
    ),
    "quick": Config(),
    "full": Config(
        "full", setup=run.Setup(quantize="nf4_double", rows=0, validation_rows=0)
    ),
}


def cells(config: Config) -> list[schedule.Row]:
    """The trainings, one for each seed.

    Raises:
        ValueError: a kind there is not, or a method that has no A and B.
    """
    wrong = [
        f"kinds: expected some of {', '.join(quant.FORMATS)}, got {k!r}"
        for k in config.kinds
        if k not in quant.FORMATS
    ]
    wrong += [] if config.kinds else ["kinds: expected at least one"]
    if config.setup.method != "lora":
        wrong.append(
            f"method: expected lora, whose A and B are stored, got {config.setup.method!r}"
        )
    if wrong:
        raise ValueError("; ".join(wrong))
    return [
        {
            **asdict(config.setup),
            "targets": config.targets,
            "rank": config.rank,
            "seed": seed,
        }
        for seed in config.seeds
    ]


def label(cell: schedule.Row) -> str:
    """The training in a line of progress."""
    return f"LoRA on {cell['quantize']} seed={cell['seed']}"


def shipped(trained: schedule.Trained, kind: str) -> tuple[bytes, Any]:
    """The file with A and B in that data type, and the model read back from it."""
    model, row = trained
    mask = methods.mask(model, run.method(row["config"]))
    idle = [
        path
        for path, layer in methods.adapters(model).items()
        if not layer.parameters()
    ]
    mask = tree.replace(
        mask, {f"{path}/lora_{part}": False for path in idle for part in "ab"}
    )
    file = adapter.dump(model, mask, row, quantize=None if kind == FLOAT else kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        path.write_bytes(file)
        return file, adapter.load(path, model, mask)[0]


def evaluate(
    trained: schedule.Trained, configs: Sequence[schedule.Row]
) -> list[schedule.Row]:
    """A row for each data type of a trained adapter."""
    cell, shared = trained.row["config"], run.bench(trained.row["config"])
    split = "test" if "test" in shared.encoded else "validation"
    encoded = shared.encoded[split]
    how = {
        "widths": shared.widths,
        "pad": shared.pad,
        "size": 2 * cell["batch"],
        "compute_dtype": "float32",
    }
    before = classification.predict(trained.model, encoded, **how)
    scores = metrics.score(shared.task.metrics, before, encoded.label)
    rows = []
    for config in configs:
        file, model = shipped(trained, config["stored"])
        after = classification.predict(model, encoded, **how)
        score = metrics.score(shared.task.metrics, after, encoded.label)
        found = {f"{split}/{name}": value for name, value in score.items()}
        found |= {
            f"change/{name}": value - scores[name] for name, value in score.items()
        }
        found |= {
            "size/file": len(file),
            "size/bits": analysis.adapter_file_bits(file, model),
            "delta/error": analysis.adapter_error(trained.model, model),
        }
        found["logits/distance"] = analysis.prediction_distance(before, after)
        about = {"examples": {split: len(encoded.label)}, "provenance": run.began()}
        rows.append({"config": config, "metrics": found, **about})
    return rows


HEADER = """# Adapters in few bits

Made by `python experiments/quantized_adapters.py` from the rows of `quantized_adapters.jsonl`. A and B of a trained adapter are
stored in the data type and read back; blocks of 64 run along their long axes, of int8 a block is a row. *file*: with head, row and
header. *bits*: for each number of A and B. *ΔW*: ||ΔW - ΔW'|| / ||ΔW|| over all adapted matrices. *logits*: ||after - before|| /
||before - mean||. *Δ*: of the score, from the same adapter's in float32. All is computed in float32; means over seeds ± their
standard error. There is no published number for this.
"""
SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"


def groups(rows: Sequence[schedule.Row]) -> list[list[schedule.Row]]:
    """Rows of one model and setting."""
    return schedule.groups(rows, but=("stored", "seed"))


def summary(group: Sequence[schedule.Row]) -> pd.DataFrame:
    """A line for each data type, the largest first: means over seeds and their errors."""
    metric = schedule.primary(group[0])
    columns = {
        "size/file": ("file", 1e-3),
        "size/bits": ("bits", 1),
        "delta/error": ("ΔW", 100),
        "logits/distance": ("logits", 100),
        metric: ("score", 100),
        f"change/{metric.partition('/')[2]}": ("Δ", 100),
    }
    table: Any = results.summary(group, by=["stored"], metric=metric)[["stored"]]
    for key, (name, unit) in columns.items():
        found = results.summary(group, by=["stored"], metric=key)
        table[name], table[f"{name} error"] = (
            unit * found["mean"],
            unit * found["error"],
        )
    order = {name: place for place, name in enumerate([FLOAT, *quant.FORMATS])}
    table = table.sort_values("stored", key=lambda column: column.map(order))
    table = table.sort_values("bits", ascending=False, kind="stable", ignore_index=True)
    return table.replace({"stored": {FLOAT: "float32"}})


def shown(table: pd.DataFrame) -> str:
    """The table as people read it."""

    def with_error(name: str, form: str) -> list[str]:
        pairs = zip(table[name], table[f"{name} error"], strict=True)
        return [
            f"{value:{form}}"
            + (f" ± {error:{form.strip('+')}}" if error == error else "")
            for value, error in pairs
        ]

    made = pd.DataFrame(
        {
            "A and B": table["stored"],
            "file, kB": table["file"],
            "of float32, %": 100 * table["file"] / table["file"][0],
        }
    )
    made["bits"] = table["bits"]
    forms = {"ΔW": ".2f", "logits": ".2f", "score": ".1f", "Δ": "+.2f"}
    for name, form in forms.items():
        made[f"{name}, %"] = with_error(name, form)
    right = {f"{name}, %": "right" for name in forms}
    return results.markdown(
        made, digits={"file, kB": 1, "of float32, %": 1, "bits": 3}, align=right
    )


def finding(table: pd.DataFrame) -> str:
    """The smallest file that does not score worse than float32, by the standard error of its score."""
    base: Any = table.iloc[0]
    if np.isnan(base["score error"]):
        return "One seed of this metric has no standard error to choose a data type by."
    near: Any = table[table["score"] >= base["score"] - base["score error"]]
    best = near.loc[near["file"].idxmin()]
    within = f"a standard error of float32's {base['score']:.1f} ± {base['score error']:.1f} %"
    if best["stored"] == base["stored"]:
        return f"**No smaller file scores within {within}.**"
    return (
        f"**The smallest file that scores within {within} has A and B in {best['stored']}**: {best['file']:.1f} instead of "
        f"{base['file']:.1f} kB, {best['score']:.1f} %."
    )


def section(group: Sequence[schedule.Row], table: pd.DataFrame, apart: str) -> str:
    """One group's table and what it says."""
    config = group[0]["config"]
    base = (
        "a base in full precision"
        if config["quantize"] == "none"
        else f"a base in {config['quantize']}"
    )
    return (
        f"## {config['model']}, {config['data']}, {config['targets']}, r = {config['rank']} on {base}{apart}\n\n"
        f"{SMOKE if config['model'] == 'tiny' else ''}{shown(table)}\n{finding(table)}\n"
    )


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/quantized_adapters.md, .csv and .png from the rows alone."""
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


def figure(table: pd.DataFrame) -> Any:
    """Both errors of each data type, with its file and score beneath; nothing of float32 alone."""
    base, rest = table.iloc[0], table.iloc[1:]
    if rest.empty:
        return None
    lines = zip(rest["stored"], rest["file"], rest["score"], strict=True)
    names = [f"{name}\n{file:.1f} kB\n{score:.1f} %" for name, file, score in lines]
    series = {
        said: (names, rest[name], rest[f"{name} error"])
        for said, name in (("of ΔW", "ΔW"), ("of the logits", "logits"))
    }
    return plots.bars_with_errors(
        series,
        title=f"Rounding A and B (float32: {base['file']:.1f} kB, {base['score']:.1f} %)",
        xlabel="data type of A and B, file, score",
        ylabel="relative error, %",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, store in every data type, and draw."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path = config.out / f"{NAME}.jsonl"
    trainings = schedule.resolved(cells(config))
    counts = schedule.check(trainings)
    kinds = dict.fromkeys([FLOAT, *config.kinds])
    wanted = [[{**cell, "stored": kind} for kind in kinds] for cell in trainings]
    missing = [
        (cell, todo)
        for cell, all in zip(trainings, wanted, strict=True)
        if (todo := results.pending(path, all))
    ]
    print(f"{len(trainings)} adapters, {len(missing)} of them to store", flush=True)
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
