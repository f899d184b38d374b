"""LoRA Tables 3, 13 and 14: which adaptation method writes best from data?

Each method trains a language model to put records into words. What it writes for the
test set, by beam search, is scored against all references. Hu et al. 2021 (arXiv
2106.09685v2), section 5.4, did so with GPT-2 medium and large on E2E (Table 3), DART
(Table 13) and WebNLG (Table 14), on all rows for five epochs (Table 11).

Ours is SmolLM2-135M with its weights as published, in 4 bits; full fine-tuning trains
the numbers that these stand for. Methods train on 2,048 of E2E's 42,061 rows and are
scored on 96 of its 630 test sources: **compare the order, not the values**. Where E2E is
neither supplied nor downloadable, film reviews take its place.

    python experiments/nlg.py --data-dir e2e-dataset.zip   # 3 runs, 25 minutes
    python experiments/nlg.py --methods none lora full top adapter_l adapter_h prefix
    python experiments/nlg.py --preset paper               # GPT-2 medium: a GPU, hours
    python experiments/nlg.py --preset paper --data webnlg --data-dir DIR
    python experiments/nlg.py --data pairs.csv             # columns source and target
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass
from typing import Any

from lora_jax import paper
from lora_jax.experiment import (
    Experiment,
    Measurement,
    RunConfig,
    fallback,
    grid_of_methods,
    presets,
)
from lora_jax.metrics import text as text_metrics
from lora_jax.results import Report, method_tables
from lora_jax.results.pages.needs import generated as needs
from lora_jax.results.pages.text_scores import TABLE_NUMBERS, bleu, published

ALL_METHODS = ("none", "full", "top", "adapter_l", "adapter_h", "prefix", "lora")


@dataclass(frozen=True)
class Options:
    methods: tuple[str, ...] = ("none", "full", "lora")
    """Adaptation methods; none is the pretrained model as it is. The learning rate is
    LoRA's: full fine-tuning takes 0.05 of it, top 0.5, adapter_l 2, prefix 2.5."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""
    table11: bool = False
    """Train as the paper does: one learning rate for all methods, Table 11's own values
    for DART and WebNLG, and no other task in the place of E2E."""


# Five epochs of GPT-2 medium with beam search: hours on a GPU.
PAPER = Options(methods=ALL_METHODS, seeds=(0, 1, 2), table11=True)
PRESETS = {
    "smoke": (Options(), presets.NLG_SMOKE),
    "quick": (Options(), presets.NLG),
    "full": (Options(methods=ALL_METHODS), presets.NLG_FULL),  # all rows
    "paper": (PAPER, presets.NLG_PAPER),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    if options.table11:
        # The rates by method were tuned on our model: the paper has one for all.
        run = base.changed(**table11_changes(base.data.data))
        runs = grid_of_methods(run, options.methods, options.seeds, rates={})
    else:
        # A laptop without E2E still has something to train on.
        run = fallback.available(base)
        runs = grid_of_methods(run, options.methods, options.seeds)
    return [Measurement((run,)) for run in runs]


def table11_changes(task: str) -> dict[str, Any]:
    """The settings of a task that differ from E2E's, which the preset has."""
    # Of somebody's own data the paper says nothing: it trains as the flags say.
    if task not in TABLE_NUMBERS:
        return {}
    e2e = paper.lora.table11("e2e")
    settings = paper.lora.table11(task)
    return {name: value for name, value in settings.items() if value != e2e[name]}


def show(rows: list) -> Report:
    # BLEU is the first of Table 3's scores. DART and WebNLG have tables of their own.
    e2e = [row for row in rows if row["config"]["data"] == "e2e"]
    claims = method_tables.lora_claims(
        e2e, "test/bleu", "LoRA Table 3", "LoRA's BLEU on E2E"
    )
    return method_tables.report(
        rows,
        title="Text from data",
        intro=__doc__,
        published=published,
        note=text_metrics.note,
        claims=claims,
        # BLEU is what the figure shows, the paper's beside ours.
        values=bleu,
    )


EXPERIMENT = Experiment(
    "nlg",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    # A device for each core slows a language model down, see `process.prepare`.
    cores_as_devices=False,
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
