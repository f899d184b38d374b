"""LoRA Tables 3, 13 and 14: which adaptation method writes best from data?

Trains a language model to put meaning representations into words with each method, writes the test set's by beam search, and scores
what it wrote against all references. Paper: Hu et al. 2021 (arXiv 2106.09685v2), section 5.4, Tables 3 (E2E), 13 (DART), 14
(WebNLG), with GPT-2 medium and large and the values of Table 11. Ours by default is SmolLM2-135M on its own 4-bit weights (full
fine-tuning: on the arrays these stand for), 2,048 of 42,061 rows, 96 of 630 test sources: compare the order, not the numbers. The
quick preset's size: 110,000 tokens a training at 350 tokens/s with LoRA, 170 with full fine-tuning, and 1.5 minutes to write: 25
minutes on two cores of their own.

    python experiments/nlg.py --data-dir e2e-dataset.zip              # quick: as it is, fine-tuned, LoRA
    python experiments/nlg.py --methods none lora full top adapter_l adapter_h prefix   # all of the paper's
    python experiments/nlg.py --preset paper                          # GPT-2 medium, E2E from the hub: a GPU and some hours
    python experiments/nlg.py --preset paper --model gpt2-large --data webnlg --data-dir DIR
    python experiments/nlg.py --data pairs.csv                        # your own: columns source and target
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from lora_jax import paper, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import method_tables
from lora_jax.results.claims import Verdict

NAME = "nlg"
EVERY = ("none", "full", "top", "adapter_l", "adapter_h", "prefix", "lora")


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full", "paper"] = "quick"
    """smoke: tiny random model, no network. quick: 2,048 rows. full: all rows, every method. paper: Table 11, GPT-2 medium."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    dry_run: bool = False
    """Only say what would run."""
    keep: bool = False
    """Keep what each cell learns in OUT/adapters: a megabyte with LoRA, 540 with full fine-tuning."""
    methods: tuple[str, ...] = ("none", "full", "lora")
    """Adaptation methods; none is the pretrained model as it is. But for the paper preset the learning rate is LoRA's, and full
    fine-tuning takes 0.05 of it, top 0.5, adapter_l 2, prefix 2.5."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 4
    """LoRA's rank."""
    seeds: tuple[int, ...] = (0,)
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=lambda: run.NLG)


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), setup=run.NLG_SMOKE),
    "quick": Config(),
    "full": Config("full", methods=EVERY, setup=run.NLG_FULL),
    "paper": Config("paper", methods=EVERY, seeds=(0, 1, 2), setup=run.NLG_PAPER),
}


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each method and seed; in the paper preset all with one learning rate."""
    if config.preset == "paper":
        return method_tables.cells(
            replace(config, setup=table11(config.setup)), PRESETS["quick"], rates={}
        )
    return method_tables.cells(config, PRESETS["quick"])


def table11(setup: run.Setup) -> run.Setup:
    """What Table 11 has apart for each data set: DART goes without dropout, decay, smoothing; E2E's length penalty is 0.9."""
    if setup.data == "e2e":
        return setup
    own = (
        {"weight_decay": 0.0, "dropout": 0.0, "label_smoothing": 0.0}
        if setup.data == "dart"
        else {}
    )
    return replace(setup, length_penalty=0.8, **own)


HEADER = """# Text from data

The question of LoRA's Tables 3, 13 and 14: which adaptation method writes best? Made by `python experiments/nlg.py` from the rows
of `nlg.jsonl`. The paper's models are GPT-2 medium and large, trained on all rows for five epochs: **compare the order, not the
values**.
"""
TABLES = {
    "e2e": "lora_table3_e2e",
    "dart": "lora_table13_dart",
    "webnlg": "lora_table14_webnlg",
}


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/nlg.md, .csv and .png from the rows alone: scores, the paper's, what was written, training losses."""
    return method_tables.draw(rows, out / NAME, HEADER, published)


def published(task: str) -> str:
    """The paper's table for the data; nothing for other data."""
    if task not in TABLES:
        return ""
    found: Any = paper.table(TABLES[task])
    found = found.assign(
        metric=found.metric + (" " + found.split if "split" in found else "")
    )
    index = ["model", "method", "trainable_params"]
    wide = found.pivot_table(
        index=index, columns="metric", values="value", sort=False
    ).reset_index()
    shown = results.markdown(
        wide.rename_axis(columns=None), align=dict.fromkeys(wide.columns[2:], "right")
    )
    return f"The paper's Table {found.table.iloc[0]}:\n\n{shown}\n"


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The effects of Table 3: LoRA's BLEU is above that of each other method."""
    return method_tables.verdicts(
        rows, "test/bleu", "LoRA Table 3", "LoRA's BLEU on E2E"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and draw everything."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    if config.preset != "paper":
        config = replace(config, setup=run.had(config.setup))
    schedule.run(
        NAME,
        config.out,
        cells(config),
        method_tables.label,
        render,
        dry_run=config.dry_run,
        keep=config.keep,
    )


if __name__ == "__main__":
    cli.script(main, cores=False)
