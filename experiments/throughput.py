"""What LoRA saves in training: time, memory, optimiser state, checkpoint (the claims of LoRA's sections 1, 4.2 and 5.5).

Times one training step of full fine-tuning and of LoRA on the same model and batch, interleaved, and takes the memory XLA says the
compiled step needs. With `--peer peft` the same steps in torch + peft, in the same run. The paper: 25 % less time, a third of
the memory, a 10,000 times smaller checkpoint, for GPT-3 175B on V100s; on a small model and a CPU only the kind of saving compares.

    python experiments/throughput.py
    python experiments/throughput.py --peer peft          # needs pip install -e '.[peers]'
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lora_jax import methods, models, paper, results
from lora_jax.accounting import step_time
from lora_jax.accounting.peft_step import peft_step
from lora_jax.experiment import cli, provenance, schedule
from lora_jax.results.claims import Verdict, effect

NAME = "throughput"


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 10 steps of each. full: 30 steps of each."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, a directory, or a hub id."""
    batch: int = 32
    length: int = 64
    """Tokens of each row, none of them padding."""
    targets: str = "query,value"
    rank: int = 8
    computes: tuple[str, ...] = ("float32", "bfloat16")
    """What matrix products are taken in."""
    steps: int = 10
    """Timed steps of each, after two that are not; the median counts."""
    peer: Literal["none", "peft"] = "none"
    """Time the same steps in torch + peft too."""


PRESETS = {
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        model="tiny",
        batch=4,
        length=16,
        rank=2,
        steps=3,
    ),
    "quick": Config(),
    "full": Config("full", steps=30),
}
METHODS = ("full", "lora")


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each framework, method and dtype of the products."""
    common = {
        name: getattr(config, name)
        for name in ("model", "batch", "length", "targets", "rank", "steps")
    }
    return [
        {**common, "framework": framework, "method": method, "compute": compute}
        for framework in ("lora_jax", *([config.peer] if config.peer != "none" else []))
        for compute in config.computes
        for method in METHODS
    ]


def ours(cell: schedule.Row) -> step_time.Step:
    """The library's own training step, compiled for the cell."""
    model, _ = models.load(cell["model"])
    method = methods.make(cell["method"], targets=cell["targets"], rank=cell["rank"])
    return step_time.compile_step(
        model,
        method,
        batch=cell["batch"],
        length=cell["length"],
        compute_dtype=cell["compute"],
    )


def peft(cell: schedule.Row) -> step_time.Step:
    """The same step in torch + peft, on a random model of the same shape."""
    model, _ = models.load(cell["model"])
    targets = cell["targets"].split(",") if cell["method"] == "lora" else ()
    return peft_step(
        model.config,
        targets=targets,
        rank=cell["rank"],
        batch=cell["batch"],
        length=cell["length"],
        compute_dtype=cell["compute"],
    )


FRAMEWORKS = {"lora_jax": ours, "peft": peft}


def measure(cells: Sequence[schedule.Row]) -> list[schedule.Row]:
    """The rows of the cells. Their steps are interleaved, so that a machine that speeds up or slows down favours none."""
    steps = [FRAMEWORKS[cell["framework"]](cell) for cell in cells]
    rows = []
    for cell, step, taken in zip(
        cells, steps, step_time.time_in_turn(steps, cells[0]["steps"]), strict=True
    ):
        median = statistics.median(taken)
        metrics = {
            "step/seconds": median,
            "step/tokens_per_second": cell["batch"] * cell["length"] / median,
        }
        metrics |= {
            f"memory/{name}_mb": value / 1e6 for name, value in step.sizes.items()
        }
        rows.append(
            {
                "config": cell,
                "metrics": metrics,
                "seconds": taken,
                "provenance": provenance.provenance(),
            }
        )
    return rows


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/throughput.md and .csv from the rows alone."""
    sections, tables = [], []
    for group in schedule.groups(rows, but=("framework", "method", "compute")):
        table = summary(group)
        tables.append(table)
        shape = ", ".join(
            f"{name} {group[0]['config'][name]}"
            for name in ("model", "batch", "length", "targets", "rank")
        )
        machine = group[0]["provenance"]["machine"]
        said = f"{machine['cpu']}, {machine['cores']} cores, {machine['backend']}; median of {group[0]['config']['steps']} steps"
        sections.append(
            f"## {shape}\n\n{said}\n\n{results.markdown(table, digits=DIGITS)}\n{ratios(table)}"
        )
    return results.render(
        out / NAME, markdown="\n".join([HEADER, *sections]), table=pd.concat(tables)
    )


HEADER = """# Throughput and memory of a training step

Made by `python experiments/throughput.py --peer peft` from the rows of `throughput.jsonl`. Peak memory is XLA's own analysis of
the compiled step (arguments, results and temporaries); torch has none on CPU. Checkpoint: what has to be stored for a task, the
head included. The paper's claims are of GPT-3 175B on V100s: **a trend, not a comparison of values**.
"""


def summary(group: list[schedule.Row]) -> pd.DataFrame:
    """One line for each framework, product dtype and method."""
    names = ("framework", "compute", "method")
    lines = [
        {**{name: row["config"][name] for name in names}, **row["metrics"]}
        for row in group
    ]
    table: Any = pd.DataFrame(lines).sort_values(
        list(names), key=lambda c: c.map(lambda v: ORDER.get(v, 0)), ignore_index=True
    )
    renamed = {
        "step/seconds": "step, ms",
        "step/tokens_per_second": "tokens/s",
        "memory/peak_mb": "peak, MB",
        "memory/optimizer_mb": "optimiser, MB",
        "memory/checkpoint_mb": "checkpoint, MB",
    }
    table["step/seconds"] *= 1e3
    return table.rename(columns=renamed)[[*names, *renamed.values()]]


DIGITS = {
    "step, ms": 1,
    "tokens/s": 0,
    "peak, MB": 1,
    "optimiser, MB": 3,
    "checkpoint, MB": 3,
}
ORDER = {"lora_jax": 0, "peft": 1, "float32": 0, "bfloat16": 1, "full": 0, "lora": 1}


CLAIMS = {
    "L9": "time saved by LoRA, %",
    "L2": "peak memory, full / LoRA",
    "L7": "checkpoint, full / LoRA",
}


def savings(table: pd.DataFrame) -> pd.DataFrame:
    """LoRA against full fine-tuning beside the paper's claims, a line for each product dtype and claim."""
    at: Any = table.set_index(["framework", "compute", "method"])
    claims, lines = paper.claims(), []
    for compute in dict.fromkeys(table[table.framework == "lora_jax"].compute):
        full, lora = (
            at.loc[("lora_jax", compute, "full")],
            at.loc[("lora_jax", compute, "lora")],
        )
        ours = {
            "L9": 100 * (1 - lora["step, ms"] / full["step, ms"]),
            "L2": full["peak, MB"] / lora["peak, MB"],
            "L7": full["checkpoint, MB"] / lora["checkpoint, MB"],
        }
        for claim, what in CLAIMS.items():
            published = f"{claims.loc[claim].published_value:g} ({claim})"
            lines.append(
                {
                    "compute": compute,
                    "what": what,
                    "ours": round(ours[claim], 2),
                    "paper": published,
                }
            )
    return pd.DataFrame(lines)


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The paper's three savings, looked for in each group of rows."""
    found = []
    for group in schedule.groups(rows, but=("framework", "method", "compute")):
        for line in savings(summary(group)).to_dict("records"):
            none = 0 if line["what"].endswith("%") else 1  # where nothing is saved
            said = f"{line['ours']:g} in {line['compute']}"
            verdict = effect(line["ours"] - none)
            found.append(
                Verdict(
                    "LoRA section 4.2",
                    f"{line['what']}: {line['paper']}",
                    said,
                    verdict,
                )
            )
    return found


def ratios(table: pd.DataFrame) -> str:
    """The savings, and ours against the peer."""
    at: Any = table.set_index(["framework", "compute", "method"])
    text = results.markdown(savings(table))
    peers = [
        {
            "compute": compute,
            "method": method,
            "step, lora_jax / peft": round(
                at.loc[("lora_jax", compute, method), "step, ms"]
                / at.loc[("peft", compute, method), "step, ms"],
                2,
            ),
        }
        for compute in dict.fromkeys(table.compute)
        for method in METHODS
        if ("peft", compute, method) in at.index
        and ("lora_jax", compute, method) in at.index
    ]
    return text + ("\n" + results.markdown(pd.DataFrame(peers)) if peers else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, all of it in one sitting, and draw."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path = config.out / f"{NAME}.jsonl"
    wanted = cells(config)
    if missing := results.pending(path, wanted):
        print(
            f"timing {len(missing)} kinds of step, {config.steps} of each", flush=True
        )
        for row in measure(list(missing)):
            results.record(path, row)
    render(results.read(path), config.out)
    print((config.out / f"{NAME}.md").read_text())


if __name__ == "__main__":
    cli.script(main)
