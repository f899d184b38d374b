"""LoRA Table 4 in kind: the adaptation methods on GPT-3's tasks, all of them as text that is written.

Paper: Hu et al. 2021 (arXiv 2106.09685v2), section 5.5, Table 4: GPT-3 175B on WikiSQL (a question and a table's columns into SQL,
exact match), MNLI (the class as a word) and SAMSum (a dialogue into its summary). Ours by default is SmolLM2-135M on its own 4-bit
weights, on those of the three whose data is given: compare the order, not the numbers.

    python experiments/gpt3_tables.py --data-dir DIR                  # a task's files, or folders wikisql, mnli, samsum
    python experiments/gpt3_tables.py --tasks wikisql --methods none lora full adapter_h prefix --data-dir DIR
    python experiments/gpt3_tables.py                                 # no data: film reviews, the opinion as a word
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from lora_jax import data, paper, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import method_tables
from lora_jax.results.claims import Verdict

NAME = "gpt3_tables"
TASKS = ("wikisql", "mnli-text", "samsum")
EVERY = (
    "none",
    "full",
    "prefix",
    "adapter_h",
    "lora",
)  # and bitfit, for a model that has biases
QUICK = replace(
    run.NLG,
    data="",
    rows=768,
    validation_rows=128,
    test_sources=96,
    max_length=320,
    beam=1,
    no_repeat=0,
    label_smoothing=0.0,
)


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 768 rows of each task. full: all rows, every method, 3 seeds."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    dry_run: bool = False
    """Only say what would run."""
    tasks: tuple[str, ...] = TASKS
    """Tasks; those whose data cannot be had are named and left out."""
    methods: tuple[str, ...] = ("none", "lora")
    """Adaptation methods; none is the pretrained model as it is. The learning rate is LoRA's: full fine-tuning takes 0.05 of it,
    top 0.5, adapter_l 2, prefix 2.5."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 8
    """LoRA's rank."""
    seeds: tuple[int, ...] = (0,)
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=lambda: QUICK)


PRESETS = {
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        tasks=("tiny-nlg",),
        setup=replace(run.NLG_SMOKE, data=""),
    ),
    "quick": Config(),
    "full": Config(
        "full",
        methods=EVERY,
        seeds=(0, 1, 2),
        setup=replace(
            QUICK, rows=0, validation_rows=0, test_sources=0, learning_rate=2e-4
        ),
    ),
}


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each task that can be had, method and seed.

    Raises:
        ValueError: a task was given as --data.
    """
    if config.setup.data:
        raise ValueError(
            f"--data: expected the tasks as --tasks, got --data {config.setup.data}"
        )
    made = []
    for task in had(config):
        own = {
            "data": task,
            "data_dir": config.setup.data_dir if task in config.tasks else None,
        }
        made += method_tables.cells(
            replace(config, setup=replace(config.setup, **own)), PRESETS["quick"]
        )
    return made


def had(config: Config) -> list[str]:
    """The tasks whose data can be had; where nothing was asked for and there are none, film reviews.

    Raises:
        ValueError, OSError: what is wrong with a task that was asked for, or with a --data-dir that has none.
    """
    asked = config.tasks != PRESETS[config.preset].tasks
    found, wrong = [], []
    for task in config.tasks:
        try:
            data.load(task, data_dir=config.setup.data_dir or config.setup.glue_dir)
            found.append(task)
        except (OSError, ValueError) as error:
            if asked:
                raise
            wrong.append(f"{task} is left out: {error}")
    if not found and config.setup.data_dir and wrong:
        raise ValueError(
            "\n  ".join(
                [f"--data-dir {config.setup.data_dir} has none of the tasks:", *wrong]
            )
        )
    print(*wrong, sep="\n", end="\n" * bool(wrong), file=sys.stderr)
    return found if found or not wrong else [run.instead(config.setup)]


HEADER = """# GPT-3's tasks

LoRA's Table 4 in kind. Made by `python experiments/gpt3_tables.py` from the rows of `gpt3_tables.jsonl`. The paper's model has 175
billion parameters and learnt from all rows: **compare the order, not the values**. SQL counts as right when it is the wanted text
but for case, spacing and quotes; the paper reports logical-form accuracy.
"""
COLUMNS = {
    "wikisql": ["WikiSQL"],
    "mnli-text": ["MNLI-m"],
    "samsum": ["SAMSum-R1", "SAMSum-R2", "SAMSum-RL"],
}


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/gpt3_tables.md, .csv and .png from the rows alone."""
    return method_tables.draw(rows, out / NAME, HEADER, published)


def published(task: str) -> str:
    """The columns of the paper's Table 4 for a task; nothing for another."""
    if task not in COLUMNS:
        return ""
    found: Any = paper.table("lora_table4_gpt3")
    wide = found.pivot_table(
        index=["method", "trainable_params"], columns="task", values="value", sort=False
    )
    wide = wide[COLUMNS[task]].reset_index().rename_axis(columns=None)
    shown = results.markdown(wide, align=dict.fromkeys(wide.columns[1:], "right"))
    return f"The paper's Table 4, GPT-3 175B:\n\n{shown}\n"


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The effects of Table 4: LoRA's WikiSQL is above that of each other method."""
    wikisql = [row for row in rows if row["config"]["data"] == "wikisql"]
    return method_tables.verdicts(
        wikisql, "test/exact_match", "LoRA Table 4", "LoRA's WikiSQL"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and draw everything."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    schedule.run(
        NAME,
        config.out,
        cells(config),
        method_tables.label,
        render,
        dry_run=config.dry_run,
    )


if __name__ == "__main__":
    cli.script(main, cores=False)
