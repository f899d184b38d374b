"""LoRA's own matrices in 4 or 8 bits, for shipping: what does the file save, and cost?

QLoRA stores the base in 4 bits; the adapter trained on it is float32. Here A and B are
rounded too when they are written (blocks of 64 run along their long axes, a block of
int8 is a row). They are floats again once read, and are not trained any further. QLoRA
(Dettmers et al. 2023, arXiv 2305.14314, equation 5) has A and B in 16 bits and no number
for fewer: **there is no published number for this**.

The size of the file includes the head, the training's row and the header. Idle adapters,
which only share a compiled program, are not in the file, and a rank that is no multiple
of 8 is filled up to one. The bits are those of each number of A and B. The column "ΔW"
is ‖ΔW - ΔW'‖ / ‖ΔW‖ over all adapted matrices, "logits" is ‖after - before‖ / ‖before -
mean‖, and "Δ" is the change of the score from the same adapter's in float32. Everything
is computed in float32; the table has means over seeds ± their standard error.

    python experiments/quantized_adapters.py       # takes the adapters of quantization.py
    python experiments/quantized_adapters.py --quantize none --rank 64 --formats nf4
    python experiments/quantized_adapters.py --preset full              # all rows
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import pandas as pd

from lora_jax import analysis, quant, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, check, grid, presets
from lora_jax.experiment.adapters import through_file
from lora_jax.experiment.predictions import predict
from lora_jax.experiment.scoring import prefixed
from lora_jax.results import Comparison, Report, pictures, report
from lora_jax.results.pages import quantized_adapters as page
from lora_jax.results.pages.needs import quantized_adapters as needs


@dataclass(frozen=True)
class Options:
    formats: tuple[str, ...] = ("int8", "int4", "fp4", "nf4", "nf4_double")
    """Formats of A and B, beside float32. That of the base is --quantize."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


SMOKE = presets.SMOKE.changed(quantize="nf4_double", rank=2)
PRESETS = {
    "smoke": (Options(seeds=(0,)), SMOKE),
    "quick": (Options(), presets.QUICK.changed(quantize="nf4_double")),
    "full": (Options(), presets.FULL.changed(quantize="nf4_double")),  # all rows
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    check.formats(options.formats)  # before anything is loaded
    items = []
    for run in grid(base, seed=options.seeds):
        # float32 is what the others are compared with.
        for stored in dict.fromkeys([page.FLOAT, *options.formats]):
            items.append(Measurement((run,), {"stored": stored}, measure))
    return items


def measure(trained, settings):
    """Store the adapter in each format, read it back, and score the model."""
    model, _, bench = trained[0]
    split = bench.test_split
    before = predict(bench, model)
    for setting in settings:
        quantize = None if setting["stored"] == page.FLOAT else setting["stored"]
        file, rounded = through_file(trained[0], quantize)
        after = predict(bench, rounded)
        # Of the same adapter: seeds do not add to its error.
        scores = after.scores.items()
        change = {name: value - before.scores[name] for name, value in scores}
        yield {
            "metrics": {
                **prefixed(split, after.scores),
                **prefixed("change", change),
                "size/file": len(file),  # bytes
                "size/bits": analysis.adapter_file_bits(file, model),
                "delta/error": analysis.adapter_error(model, rounded),
                "logits/distance": analysis.prediction_distance(
                    before.logits, after.logits
                ),
            },
            # What the error of a score depends on.
            "examples": {split: len(after.logits)},
        }


def show(rows: list) -> Report:
    sections, tables = [], []
    groups = results.groups(rows, axes=("stored", "seed"))
    for group in groups:
        table = page.storage_table(group, tuple(quant.FORMATS))
        tables.append(table)
        blocks = [page.storage_text(table), page.advice(table)]
        sections.append(report.group_section(group, blocks))
    return Report(
        title="Adapters in few bits",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.error_figures),
        comparison=Comparison(by=page.LINE, error="score error"),
    )


EXPERIMENT = Experiment(
    "quantized_adapters",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,  # and take the adapters that are there
    hidden=("method",),  # only LoRA has A and B
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
