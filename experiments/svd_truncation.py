"""Is ΔW really low-rank? The score that is left when each ΔW keeps its top k directions.

Takes full fine-tuning's ΔW = W - W0 of every matrix of the blocks, and a LoRA's of rank
64, truncates each to its top k singular directions, and scores the model without
training it again. Everything else (head, biases, norms, embeddings) keeps its
fine-tuned value: k = 0 shows what that alone is worth. Full fine-tuning at k is the
adapter that `methods.lora_from_delta(W0, W, rank=k, rest="tuned")` extracts.

Hu et al. 2021 (arXiv 2106.09685v2), sections 1 and 4.1, suppose that ΔW has a low
intrinsic rank, and that 1 or 2 of 12,288 are enough. They train at low rank (Table 6)
and truncate nothing: **there is no published number for this, only the trend**. The
relative error is ‖ΔW - ΔW_k‖ / ‖ΔW‖ over all matrices, the energy the share of ‖ΔW‖²
kept, mean over matrices (Frobenius norms); parameters are those of the rank-k factors.

    python experiments/svd_truncation.py                   # rank_sweep's adapter, and
                                                           # one full fine-tuning
    python experiments/svd_truncation.py --full-learning-rate 3e-4
    python experiments/svd_truncation.py --preset full     # all rows, three seeds
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_jax import analysis, methods, results
from lora_jax.analysis.truncation import BLOCKS
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets
from lora_jax.experiment.run import prefixed, score
from lora_jax.results import Claim, Comparison, Report, Section, claims, plots, report

SOURCE = "LoRA sections 1, 4.1"
TRAINING = ("method", "targets", "rank", "learning_rate")
LOSSES = ("relative_error", "energy", "effective_rank")


@dataclass(frozen=True)
class Options:
    rank: int = 64
    """Rank of the LoRA that is truncated."""
    ks: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64)
    """Directions that are kept; all of them are scored too."""
    full_learning_rate: float = 1e-4
    """Learning rate of full fine-tuning; --learning-rate is LoRA's."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; every run is repeated with each of them."""


PRESETS = {
    "smoke": (Options(rank=8, ks=(0, 1, 2, 4)), presets.SMOKE),
    "quick": (Options(), presets.QUICK),
    "full": (Options(seeds=(0, 1, 2)), presets.FULL),
}


def measurements(options: Options, base: RunConfig, benches) -> list[Measurement]:
    negative = [k for k in options.ks if k < 0]
    if negative:
        values = ", ".join(map(str, negative))
        raise ValueError(f"ks: expected whole numbers >= 0, got {values}")
    layers = methods.targets(benches.bench(base).model, BLOCKS).values()
    directions = max(min(layer.kernel.shape[-2:]) for layer in layers)
    rate = options.full_learning_rate
    items = []
    for seed in options.seeds:
        lora = base.changed(rank=options.rank, seed=seed)
        full = base.changed(method="full", learning_rate=rate, seed=seed)
        for run, largest in ((lora, options.rank), (full, directions)):
            kept = sorted({k for k in options.ks if k < largest} | {largest})
            items += [Measurement((run,), {"k": k}, measure) for k in kept]
    return items


def measure(trained, settings):
    model, row, bench = trained[0]
    split = bench.test_split
    deltas = analysis.take_deltas(model, bench.model)
    spectra = [np.asarray(delta.s) for delta in deltas.deltas.values()]
    for setting in settings:
        truncated = analysis.truncate(deltas, setting["k"])
        scores = prefixed(split, score(bench, truncated, split))
        adapters = methods.adapters(truncated).values()
        yield {
            "metrics": scores | analysis.truncation_loss(spectra, setting["k"]),
            "examples": {split: row["examples"][split]},
            "parameters": sum(layer.parameters() for layer in adapters),
            "trained": row["metrics"],
        }


def show(rows: list) -> Report:
    sections = []
    tables = []
    for group in results.groups(rows, axes=(*TRAINING, *OTHER_OPTIONS, "seed", "k")):
        table = truncation_table(group)
        tables.append(table)
        blocks = [*report.warning(group)]
        blocks.append(report.measured_on(group, table["error of"].iloc[0]))
        for name, part in table.groupby("series", sort=False):
            blocks += [f"### {name}", text_table(part), finding(part)]
        sections.append(Section(group.name, [*blocks, report.settings(group)]))
    return Report(
        title="Truncating ΔW",
        intro=__doc__,
        sections=sections,
        claims=truncation_claims(tables[0]),
        data=pd.concat(tables),
        figures=figure(tables[0]),
        comparison=Comparison(by=("data", "model", "series", "k")),
    )


# Options of LoRA's alone: rows of full fine-tuning do not have them.
OTHER_OPTIONS = ("alpha", "bias", "dropout", "init", "rank_stabilized", "layers")


def truncation_table(group: results.Group) -> pd.DataFrame:
    """A line for each training and k: score, and what the truncation took away."""
    by = [*TRAINING, "k"]
    table = results.scores(group, by)
    with_settings = results.Group(group.name, group.settings, completed(group.rows))
    columns = [results.Column(f"delta/{name}", name) for name in LOSSES]
    losses = results.metric_table(with_settings, by, columns)
    table[list(LOSSES)] = losses[list(LOSSES)]
    table["series"] = [series_name(line) for _, line in table.iterrows()]
    order = ["method", "series", "k"]
    return table.sort_values(order, ascending=[False, True, True], ignore_index=True)


def completed(rows: list) -> list:
    """The rows, those of full fine-tuning with LoRA's settings left empty."""
    empty = dict.fromkeys(TRAINING)
    return [{**row, "config": empty | row["config"]} for row in rows]


def series_name(line) -> str:
    name = "full fine-tuning"
    if line["method"] == "lora":
        name = f"LoRA r = {line['rank']:.0f} ({line['targets']})"
    return f"{name}, lr {line['learning_rate']:g}"


def text_table(part: pd.DataFrame) -> pd.DataFrame:
    text = pd.DataFrame({"k": part.k.astype(str)})
    text.loc[part.index[-1], "k"] += " (all)"
    text["parameters"] = part.parameters
    text["score"] = results.plus_minus(part.score, part.error)
    for name in ("relative_error", "energy"):
        text[name.replace("_", " ")] = [f"{value:.3f}" for value in part[name]]
    return text


def finding(part: pd.DataFrame) -> str:
    """From which k on the score stays within one standard error of the whole ΔW's."""
    full = part.iloc[-1]
    text = (
        "The effective rank of a ΔW (from the entropy of its singular values) is "
        f"{full.effective_rank:.1f} of {full.k}, mean over matrices."
    )
    if np.isnan(full.error):
        return text
    is_below = (part.score < full.score - full.error).to_numpy()
    last_below = np.flatnonzero(is_below)
    first = part.iloc[last_below[-1] + 1 if len(last_below) else 0]
    return (
        f"{text} **From k = {first.k} on the score stays within one standard error "
        f"({full.error:.1f}) of the whole ΔW's {full.score:.1f}**; the top {first.k} "
        f"miss {100 * first.relative_error:.0f} % of ΔW's norm."
    )


def truncation_claims(table: pd.DataFrame) -> list[Claim]:
    """The top 2 directions do as well as all, where none (k = 0) do worse."""
    result = []
    for name, part in table.groupby("series", sort=False):
        by_k = part.set_index("k")
        if 2 not in by_k.index or len(part) < 2:
            continue
        full = claims.line_score(part.iloc[-1])
        statement = f"the top 2 directions of ΔW do as well as all: {name}"
        top_two = claims.line_score(by_k.loc[2])
        claim = claims.no_worse(SOURCE, statement, top_two, full)
        if 0 in by_k.index:
            none = claims.line_score(by_k.loc[0])
            evidence = f"{claim.evidence}, {none.value:.1f} without any"
            claim = claim._replace(evidence=evidence)
            # Where no direction does as well, there is nothing to be kept.
            control = claims.no_worse(SOURCE, statement, none, full)
            if control.verdict == claims.REPRODUCED:
                claim = claim._replace(verdict=claims.WITHIN_ERROR)
        result.append(claim)
    return result


def figure(table: pd.DataFrame) -> dict[str, plots.Figure]:
    """Score, and relative error, against k; a dotted line is the score at k = 0."""
    kept = table[table.k > 0].assign(exact=np.nan)
    if kept.empty:
        return {}
    errors = plots.by_label(kept, "series", x="k", y="relative_error", error="exact")
    first = table.iloc[0]
    missing = plots.Panel(errors, "What is missing", "‖ΔW - ΔW_k‖ / ‖ΔW‖")
    drawn = plots.lines_with_errors(
        plots.by_label(kept, "series", x="k"),
        title=f"{first.model}, {first.data} (dotted: k = 0)",
        xlabel="singular directions kept, k",
        ylabel=f"{first.metric.replace('/', ' ')}, %",
        beside=[missing],
    )
    for index, name in enumerate(dict.fromkeys(kept.series)):
        for value in table.score[(table.series == name) & (table.k == 0)]:
            plots.horizontal_line(drawn, value, index)
    return {"": drawn}


EXPERIMENT = Experiment(
    "svd_truncation",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,
    hidden=("method",),
)

if __name__ == "__main__":
    EXPERIMENT.script()
