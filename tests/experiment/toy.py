"""Experiments on the tiny encoder: as small as they can be, yet with all their parts."""

from dataclasses import dataclass

from lora_jax import results
from lora_jax.experiment import Experiment, Measurement, grid, presets
from lora_jax.experiment.run import score
from lora_jax.results import Comparison, Report, Section

# 4 steps. r = 1 on the queries of 2 layers: 2 (16 + 16) = 64 trainable parameters.
BASE = presets.SMOKE.changed(compute="float32", targets="query", rank=1)


@dataclass(frozen=True)
class RankOptions:
    ranks: tuple[int, ...] = (1, 2)
    """Ranks of the update."""
    targets: tuple[str, ...] = ("query",)
    """Sets of matrices to adapt."""


def rank_measurements(options, base, _benches):
    """A training for each rank and set of matrices."""
    runs = grid(base, targets=options.targets, rank=options.ranks)
    return [Measurement((run,)) for run in runs]


def show_ranks(rows):
    """A page of the test accuracies."""
    table = results.frame(rows)[["rank", "test/accuracy"]]
    return Report(
        title="Ranks",
        intro="Ranks of a random model.",
        sections=[Section("Accuracy", [table])],
        data=table,
        comparison=Comparison(by=("rank",), value="test/accuracy", error=""),
    )


@dataclass(frozen=True)
class FactorOptions:
    factors: tuple[int, ...] = (1,)
    """Factors that the accuracy is multiplied by."""


def measure_scaled(trained, settings):
    """The test accuracy of a run, times each factor."""
    (run,) = trained
    accuracy = score(run.bench, run.model, "test")["accuracy"]
    for setting in settings:
        yield {"metrics": {"test/scaled": setting["factor"] * accuracy}}


def factor_measurements(options, base, _benches):
    """A row for each factor, all of one run."""
    items = []
    for factor in options.factors:
        items.append(Measurement((base,), {"factor": factor}, measure_scaled))
    return items


def show_factors(rows):
    """A page of the scaled accuracies."""
    table = results.frame(rows)[["factor", "test/scaled"]]
    sections = [Section("Scores", [table])]
    return Report("Factors", "Factors of a score.", sections, data=table)


# A row is a training.
RANKS = Experiment(
    name="ranks",
    presets={"quick": (RankOptions(), BASE), "smoke": (RankOptions((1,)), BASE)},
    measurements=rank_measurements,
    report=show_ranks,
    description="Which rank?\n\nThe smallest sweep.",
)
# A row is measured on a trained run, which is kept for it.
FACTORS = Experiment(
    name="factors",
    presets={"quick": (FactorOptions(), BASE)},
    measurements=factor_measurements,
    report=show_factors,
    description="Which factor?",
)
