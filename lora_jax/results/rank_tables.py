"""LoRA's Table 18: what a language model writes against the rank of its adapter; the part of the rank sweep that is about text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_jax import paper, results
from lora_jax.experiment import schedule
from lora_jax.experiment.schedule import Row
from lora_jax.results import method_tables, plots

PAPER_NAMES = {
    "validation/loss": "val_loss",
    "test/bleu": "BLEU",
    "test/nist": "NIST",
    "test/meteor": "METEOR",
    "test/rouge_l": "ROUGE_L",
    "test/cider": "CIDEr",
}


def table(group: Sequence[Row]) -> Any:
    """A line for each rank: parameters, the scores of what was written, and those of the paper's Table 18 on E2E."""
    found: Any = paper.table("lora_table18_gpt2_rank")
    theirs = found.pivot_table(index="r", columns="metric", values="value")
    made = method_tables.summary(group).sort_values(
        ["targets", "rank"], ignore_index=True
    )
    if group[0]["config"]["data"] == "e2e":
        for ours, name in PAPER_NAMES.items():
            if ours in made:
                share = 100 if name in ("METEOR", "ROUGE_L") else 1
                made[f"paper {name}"] = [
                    share * theirs[name].get(rank, np.nan) for rank in made["rank"]
                ]
    return made


def section(group: Sequence[Row], table: Any, apart: str) -> str:
    """The table of one group of rows of a language model."""
    config = group[0]["config"]
    metrics = method_tables.names(group[0])
    columns = [
        "targets",
        "rank",
        "parameters",
        *metrics,
        *(name for name in table if name.startswith("paper ")),
    ]
    digits = {name: 3 if "loss" in name else 2 for name in columns[3:]}
    settings = ", ".join(
        f"{k} {v}"
        for k, v in config.items()
        if k not in ("targets", "rank", "seed", "data_source", "data_dir")
    )
    return (
        f"## {config['data']}, {config['model']}{apart}\n\n{method_tables.SMOKE if config['model'].startswith('tiny') else ''}"
        f"Trained on {group[0]['examples']['train']:,} rows; scored on {group[0]['examples']['test']:,} sources. Loss in nats a "
        f"token, shares in %. The paper's numbers are GPT-2 medium's (Table 18).{method_tables.notes(group[0])}\n\n"
        f"{results.markdown(table[columns], digits=digits)}\n<details><summary>Settings</summary>\n\n{settings}\n\n"
        f"Data: {config['data_source']}\n\n</details>\n"
    )


def figure(group: Sequence[Row], table: Any) -> Any:
    """The first score of what was written against r; the paper's Table 18 beside it."""
    metric = schedule.primary(group[0])
    each = {
        targets: table[table.targets == targets]
        for targets in dict.fromkeys(table.targets)
    }
    lines = {
        targets: (part["rank"], part[metric], part[f"{metric} error"])
        for targets, part in each.items()
    }
    name = PAPER_NAMES.get(metric)
    found: Any = paper.table("lora_table18_gpt2_rank").query("metric == @name")
    theirs = (
        [
            plots.Panel(
                {"query,value": (found.r, found.value, None)},
                "Paper: GPT-2 medium, E2E",
                f"{name}, %",
            )
        ]
        if name
        else []
    )
    config = group[0]["config"]
    title = f"{config['model']}, {config['data']}"
    return plots.lines_with_errors(
        lines, title=title, xlabel="rank r", ylabel=f"{metric}, %", beside=theirs
    )
