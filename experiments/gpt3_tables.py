"""LoRA Table 4: which adaptation method is best on GPT-3's tasks?

Each method trains a language model, and all tasks are text that it generates. Hu et al.
2021 (arXiv 2106.09685v2), section 5.5, had GPT-3 175B on WikiSQL (a question and a
table's columns into SQL), MNLI (the class as a word) and SAMSum (a dialogue into its
summary), on all rows. Ours is SmolLM2-135M on its own 4-bit weights, on 768 rows of
those of the three whose data is there: **compare the order, not the values**. SQL
counts as right if it is the reference's text but for case, spacing and quotes; the
paper reports **logical-form accuracy**. Without any of the data, film reviews take its
place.

    python experiments/gpt3_tables.py --data-dir DIR     # 2 runs a task, 12 minutes
    python experiments/gpt3_tables.py --tasks wikisql --methods lora full --data-dir DIR
    python experiments/gpt3_tables.py                    # no data: film reviews

DIR holds one task's official files, or folders wikisql, mnli and samsum.
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

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
from lora_jax.results.pages import text_scores
from lora_jax.results.pages.needs import generated as needs

TASKS = ("wikisql", "mnli-text", "samsum")
# And bitfit, for a model that has biases.
ALL_METHODS = ("none", "full", "prefix", "adapter_h", "lora")


@dataclass(frozen=True)
class Options:
    tasks: tuple[str, ...] = TASKS
    """One task or several (--data is the same flag). Of these three, those whose data
    is not there are named and left out."""
    methods: tuple[str, ...] = ("none", "lora")
    """Adaptation methods; none is the pretrained model as it is. The learning rate is
    LoRA's: full fine-tuning takes 0.05 of it, top 0.5, adapter_l 2, prefix 2.5."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""


# The tasks have long sources and one right answer: greedy decoding, no smoothing.
QUICK = presets.NLG.changed(
    data="wikisql",
    rows=768,
    validation_rows=128,
    test_sources=96,
    rank=8,
    beam=1,
    no_repeat=0,
    no_repeat_within="prompt",  # without effect, as nothing is forbidden
    label_smoothing=0.0,
)
FULL = QUICK.changed(rows=0, validation_rows=0, test_sources=0, learning_rate=2e-4)
PRESETS = {
    "smoke": (Options(tasks=("tiny-nlg",)), presets.NLG_SMOKE.changed(rank=8)),
    "quick": (Options(), QUICK),
    "full": (Options(methods=ALL_METHODS, seeds=(0, 1, 2)), FULL),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    # Tasks that somebody chose must be there; of the paper's three, any.
    is_chosen = options.tasks != TASKS
    runs = []
    # Before anything is trained, so that a wrong folder is an error at once.
    for run in fallback.runs_of_tasks(base, options.tasks, required=is_chosen):
        runs += grid_of_methods(run, options.methods, options.seeds)
    return [Measurement((run,)) for run in runs]


def show(rows: list) -> Report:
    # Of the three tasks only WikiSQL has committed rows to hold the paper against.
    wikisql = [row for row in rows if row["config"]["data"] == "wikisql"]
    claims = method_tables.lora_claims(
        wikisql, "test/exact_match", "LoRA Table 4", "LoRA's WikiSQL"
    )
    return method_tables.report(
        rows,
        title="GPT-3's tasks",
        intro=__doc__,
        published=published,
        note=text_metrics.note,
        claims=claims,
        values=text_scores.gpt3,
    )


def published(task: str) -> list:
    """The columns of the paper's Table 4 for a task; nothing for another."""
    if task not in paper.lora.TABLE4_COLUMNS:
        return []
    columns = ["method", "trainable_params", *paper.lora.TABLE4_COLUMNS[task]]
    return ["The paper's Table 4, GPT-3 175B:", paper.lora.table4()[columns]]


EXPERIMENT = Experiment(
    "gpt3_tables",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    hidden=("data",),  # --tasks says it
    cores_as_devices=False,  # slow for a language model, see `process.prepare`
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
