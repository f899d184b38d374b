"""Does LoRA's alpha matter once the learning rate is fixed? The smallest experiment, to copy.

Hu et al. 2021 (arXiv 2106.09685v2), section 4.1, say that "tuning alpha is roughly the
same as tuning the learning rate", and publish no number for it. This trains a LoRA with
each alpha at one learning rate. It takes five minutes on two cores.

    python experiments/forkme.py
    python experiments/forkme.py --alphas 1 256
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

from lora_jax import results
from lora_jax.experiment import Experiment, Measurement, RunConfig, grid, presets
from lora_jax.results import Comparison, Report, Section, report
from lora_jax.results.pages.needs import scored as needs


@dataclass(frozen=True)
class Options:
    alphas: tuple[float, ...] = (4.0, 16.0, 64.0)
    """Values of alpha; the update is scaled by alpha / r."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""


# A run's other settings are those of the preset, and each has a flag.
PRESETS = {
    "smoke": (Options(), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    """One row for each training; `grid` combines the values of all axes."""
    runs = grid(base, seed=options.seeds, alpha=options.alphas)
    return [Measurement((run,)) for run in runs]


def show(rows: list) -> Report:
    """Everything on the page comes from the rows alone."""
    # The largest group of rows that are alike in all settings but these two.
    group = results.groups(rows, axes=("alpha", "seed"))[0]
    table = results.scores(group, by=["alpha"])  # in %, means over seeds
    columns = table[["alpha", "score", "error", "seeds"]]
    error_kind = table["error of"].iloc[0]
    sentence = report.measured_on(group, error_kind)
    blocks = [*report.warning(group), sentence, columns, report.settings(group)]
    return Report(
        title="Alpha",
        intro=__doc__,
        sections=[Section(group.name, blocks)],
        data=table,
        # Rows of another machine are compared with the reference rows by these columns.
        comparison=Comparison(by=("data", "model", "alpha")),
    )


EXPERIMENT = Experiment("forkme", PRESETS, measurements, show, __doc__, needs=needs)

if __name__ == "__main__":
    EXPERIMENT.script()
