"""Where should an adapter be merged when its base is quantized?

An adapter was trained beside the 4-bit weights W4, and makes up for their errors as
well. `methods.merge` can fold it into the dequantized W4; into the original W, which it
has not seen; or into W4 and quantize the sum again, which rounds small updates away.
QLoRA (Dettmers et al. 2023, arXiv 2305.14314) does not say how its adapters were merged:
**there is no published number for this**.

The distance is that of the merged matrix from W4 + ΔW, over ‖ΔW‖. "ΔW kept" is what the
matrix has changed along ΔW, over ‖ΔW‖. Both are means over adapted matrices and layers.
The logits are ‖after - before‖ / ‖before - mean‖, and "same class" is the share of
examples whose prediction stays. The bits are those of the blocks' matrices after the
merge; matrices without an adapter stay quantized, unless the original weights take their
place. Everything is computed in float32, so that nothing else rounds.

    python experiments/quantized_merge.py          # takes the adapters of quantization.py
    python experiments/quantized_merge.py --formats nf4 --rank 64 --seeds 0
    python experiments/quantized_merge.py --preset full                    # all rows
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

import pandas as pd

from lora_jax import analysis, methods, quant, results
from lora_jax.experiment import Experiment, Measurement, RunConfig, check, grid, presets
from lora_jax.experiment.predictions import predict
from lora_jax.experiment.scoring import prefixed
from lora_jax.results import Comparison, Report, pictures, report
from lora_jax.results.pages import quantized_merge as page
from lora_jax.results.pages.needs import quantized_merge as needs


@dataclass(frozen=True)
class Options:
    formats: tuple[str, ...] = ("nf4", "nf4_double", "fp4", "int4", "int8")
    """Formats of the base."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


PRESETS = {
    "smoke": (Options(formats=("nf4",), seeds=(0,)), presets.SMOKE.changed(rank=2)),
    "quick": (Options(), presets.QUICK),
    "full": (Options(), presets.FULL),  # all rows of the data
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    check.formats(options.formats)  # before anything is loaded
    items = []
    for run in grid(base, quantize=options.formats, seed=options.seeds):
        for place in page.PLACES:
            items.append(Measurement((run,), {"into": place}, measure))
    return items


def measure(trained, settings):
    """Merge the adapter in each place, and compare with the model as it was."""
    model, _, bench = trained[0]
    split = bench.test_split
    before = predict(bench, model)
    for setting in settings:
        place = setting["into"]
        # W itself is not in the trained model.
        original = bench.unquantized() if place == "original" else None
        merged = methods.merge(model, into=place, original=original)
        after = predict(bench, merged)
        layers = analysis.merge_errors(model, merged)
        yield {
            "metrics": {
                **prefixed(split, after.scores),
                **prefixed("unmerged", before.scores),
                **prefixed("matrices", analysis.mean_merge_errors(layers)),
                **analysis.prediction_change(before.logits, after.logits),
                "size/bits": analysis.stored_bits(merged),  # of the blocks' matrices
            },
            "layers": layers,  # for the table by layer
            "examples": {split: len(after.logits)},
        }


def show(rows: list) -> Report:
    sections, tables = [], []
    formats = tuple(quant.FORMATS)  # the order of lines
    groups = results.groups(rows, axes=(*page.AXES, "seed"))
    for group in groups:
        table = page.merge_table(group, formats)
        tables.append(table)
        blocks = [
            page.merge_text(table),
            page.advice(table),
            "By layer: the distance, and ΔW kept, means over seeds.",
            page.layer_table(group, formats),
        ]
        sections.append(report.group_section(group, blocks))
    return Report(
        title="Merging an adapter into a quantized base",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        **pictures.of_groups(groups, tables, page.logits_figure),
        comparison=Comparison(by=page.LINE, value="merged, %", error="", tolerance=2.0),
    )


EXPERIMENT = Experiment(
    "quantized_merge",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,  # and take the adapters that are there
    hidden=("quantize", "method"),  # --formats and LoRA
    needs=needs,
)

if __name__ == "__main__":
    EXPERIMENT.script()
