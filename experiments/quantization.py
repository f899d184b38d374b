"""QLoRA Tables 2 to 4: which format of a frozen base costs how much of the score?

*Alone* is a model that was fine-tuned in full, then quantized and not trained again, as
Table 2 quantizes pretrained models. *LoRA* is an adapter that was trained on the
quantized pretrained base, as in Tables 3 and 4; Δ is the difference from LoRA on fp32.
Only the matrices of the blocks are stored in the format. Products are taken in bfloat16
where the machine has it, those of fp32 in float32.

Dettmers et al. 2023 (arXiv 2305.14314v1) score language models of 125M to 65B parameters
by perplexity, MMLU and GLUE. Ours is a small encoder on film reviews: **which format is
better compares, the scores do not**. Bytes and seconds are in `quantization_cost.py`.

    python experiments/quantization.py                      # 24 trainings, half an hour
    python experiments/quantization.py --model DIRECTORY --formats bf16 nf4_double
    python experiments/quantization.py --preset full        # all rows
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import pandas as pd

from lora_jax import results
from lora_jax.accounting.storage import FORMATS, store_base
from lora_jax.experiment import Experiment, Measurement, RunConfig, check, grid, presets
from lora_jax.experiment.scoring import final_scores, prefixed, score
from lora_jax.results import Comparison, Report, Section, claims, pictures, report
from lora_jax.results.pages import quantization as page
from lora_jax.results.pages.format_names import format_name, row_name
from lora_jax.results.pages.needs import quantization as needs


@dataclass(frozen=True)
class Options:
    formats: tuple[str, ...] = tuple(FORMATS)
    """Formats of the base."""
    full_learning_rate: float = 1e-4
    """Learning rate of full fine-tuning; --learning-rate is LoRA's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


SMOKE = Options(formats=("fp32", "nf4_double"), seeds=(0,))  # the extremes
PRESETS = {
    "smoke": (SMOKE, presets.SMOKE.changed(batch=8, rank=2)),
    "quick": (Options(), presets.QUICK),
    "full": (Options(), presets.FULL),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    check.formats(options.formats, FORMATS)  # before anything is loaded
    alone, lora = [], []
    for run in grid(base, seed=options.seeds):
        # One training in full serves all formats; LoRA is trained on each of them.
        full = run.changed(method="full", learning_rate=options.full_learning_rate)
        for name in options.formats:
            settings = {"part": page.ALONE, "type": row_name(name)}
            alone.append(Measurement((full,), settings, measure_alone))
            stored = run.changed(**FORMATS[name]._asdict())  # quantize and compute
            settings = {"part": page.LORA, "type": row_name(name)}
            lora.append(Measurement((stored,), settings, measure_lora))
    return alone + lora


def measure_alone(trained, settings):
    """Quantize a model that was trained in full, and score it."""
    model, row, bench = trained[0]
    split = bench.test_split
    for setting in settings:
        storage = FORMATS[format_name(setting["type"])]
        stored = store_base(model, storage)
        scores = score(bench, stored, split, compute=storage.compute_dtype)
        yield row_of(row, prefixed(split, scores))


def measure_lora(trained, settings):
    """Take the scores of the training itself: its base was in the format."""
    row = trained[0].row
    for _ in settings:
        yield row_of(row, final_scores(row))


def row_of(row, scores) -> dict:
    return {"metrics": scores, "examples": row["examples"], "trained": row["metrics"]}


def show(rows: list) -> Report:
    sections, tables = [], []
    groups = results.groups(rows, page.AXES)
    for group in groups:
        table = page.score_table(group, tuple(FORMATS))
        tables.append(table)
        sections.append(report.group_section(group, [page.text_table(table)]))
    # The paper's scores are of other models and tasks: no column beside ours.
    sections.append(Section("The paper's values", page.published_blocks()))
    return Report(
        title="Formats of a frozen base",
        intro=__doc__,
        sections=sections,
        claims=claims.of_groups(groups, tables, page.format_claims),
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.score_figure),
        comparison=Comparison(by=page.LINE, value="LoRA", error="LoRA error"),
    )


EXPERIMENT = Experiment(
    "quantization",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,  # for quantized_merge and quantized_adapters
    hidden=("quantize", "method", "compute"),  # the formats decide
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
