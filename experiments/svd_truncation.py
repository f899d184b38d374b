"""Is ΔW really low-rank? The score that is left when each learnt ΔW keeps only its top k singular directions.

Takes full fine-tuning's ΔW = W - W0 of every matrix of the blocks, and a LoRA's of rank 64, truncates each to rank k and evaluates
without retraining. Everything else keeps its fine-tuned value: head, biases, norms, embeddings; k = 0 is the control that shows how
much those carry. Full fine-tuning at k is the adapter that `methods.lora_from_delta(W0, W, rank=k, others="tuned")` extracts.
Paper: Hu et al. 2021 (arXiv 2106.09685v2), sections 1 and 4.1: ΔW is supposed to have a low intrinsic rank, and 1 or 2 of 12,288 to
be enough. It trains at low rank (Table 6) and truncates nothing: there is no published number for this, only the trend.

    python experiments/svd_truncation.py                              # quick: rank_sweep's adapter, one full fine-tuning
    python experiments/svd_truncation.py --full-learning-rate 3e-4
    python experiments/svd_truncation.py --preset full                # all rows, three seeds
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tyro.conf import OmitArgPrefixes

from lora_jax import analysis, methods, paper, results
from lora_jax.analysis.truncation import BLOCKS
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import plots
from lora_jax.results.claims import Verdict, as_good

NAME = "svd_truncation"


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows, 3 seeds."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them; trained models are kept in its folder adapters."""
    dry_run: bool = False
    """Only say what would run."""
    targets: str = "query,value"
    """The LoRA's matrices. Full fine-tuning's are all of the blocks."""
    rank: int = 64
    """The LoRA's."""
    ks: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64)
    """Directions kept; all of them are scored too."""
    full_learning_rate: float = 1e-4
    """Full fine-tuning's; --learning-rate is LoRA's."""
    seeds: tuple[int, ...] = (0,)
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PRESETS = {
    "smoke": Config(
        "smoke", Path("results/smoke"), rank=8, ks=(0, 1, 2, 4), setup=run.SMOKE
    ),
    "quick": Config(),
    "full": Config(
        "full", seeds=(0, 1, 2), setup=replace(run.SETUP, rows=0, validation_rows=0)
    ),
}


def cells(config: Config) -> list[schedule.Row]:
    """The trainings: LoRA and full fine-tuning with each seed.

    Raises:
        ValueError: a k below 0, or another method than lora.
    """
    if wrong := [k for k in config.ks if k < 0]:
        raise ValueError(
            f"ks: expected whole numbers >= 0, got {', '.join(map(str, wrong))}"
        )
    if config.setup.method != "lora":
        raise ValueError(
            f"method: expected lora (full fine-tuning is trained beside it), got {config.setup.method!r}"
        )
    full = replace(config.setup, method="full", learning_rate=config.full_learning_rate)
    lora = {**asdict(config.setup), "targets": config.targets, "rank": config.rank}
    both = lora, {**asdict(full), "targets": ".", "rank": 0}
    return [{**each, "seed": seed} for seed in config.seeds for each in both]


def points(cell: schedule.Row, ks: Sequence[int]) -> list[schedule.Row]:
    """The configurations of a training's rows: one for each k below the number of directions there are, one for all."""
    layers = methods.targets(run.bench(cell).model, BLOCKS).values()
    most = cell["rank"] or max(min(layer.kernel.shape[-2:]) for layer in layers)
    return [{**cell, "k": k} for k in sorted({k for k in ks if k < most} | {most})]


def label(cell: schedule.Row) -> str:
    """The training in a line of progress."""
    return f"{series(cell)} seed={cell['seed']}"


def series(cell: schedule.Row) -> str:
    """What a training is called in tables and figure."""
    name = (
        f"LoRA r = {cell['rank']} ({cell['targets']})"
        if cell["rank"]
        else "full fine-tuning"
    )
    return f"{name}, lr {cell['learning_rate']:g}"


def evaluate(
    trained: schedule.Trained, configs: Sequence[schedule.Row]
) -> Iterator[schedule.Row]:
    """A row for each truncation of a trained model."""
    cell, shared = trained.row["config"], run.bench(trained.row["config"])
    split = "test" if "test" in shared.encoded else "validation"
    deltas = analysis.take_deltas(trained.model, shared.model)
    spectra = [np.asarray(part.s) for part in deltas.deltas.values()]
    for config in configs:
        model = analysis.truncate(deltas, config["k"])
        scores = run.score(cell, model, split)
        yield {
            "config": config,
            "metrics": {f"{split}/{name}": value for name, value in scores.items()}
            | analysis.truncation_loss(spectra, config["k"]),
            "examples": {split: trained.row["examples"][split]},
            "parameters": sum(
                layer.parameters() for layer in methods.adapters(model).values()
            ),
            "trained": trained.row["metrics"],
            "provenance": run.began(),
        }


HEADER = """# Truncating what was learnt

Is ΔW really low-rank? Made by `python experiments/svd_truncation.py` from the rows of `svd_truncation.jsonl`: each learnt ΔW keeps
its top k singular directions and the model is scored without retraining. Of full fine-tuning these are all matrices of the
blocks. Everything else (head, biases, norms, embeddings) keeps its fine-tuned value: k = 0 shows what that alone is worth.
The paper trains at low rank and truncates nothing, so there is no published number beside these: **a trend**.
"""
SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"
ERRORS = {
    "seeds": "; ± is the standard error over seeds",
    "binomial": "; ± is the binomial standard error of one seed",
    "none": "",
}
VARIED = ["method", "targets", "rank", "learning_rate"]


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/svd_truncation.md, .csv and .png from the rows alone."""
    groups = schedule.groups(rows, but=(*VARIED, "seed", "k"))
    tables = [summary(group) for group in groups]
    said = schedule.apart(groups)
    sections = [section(*each) for each in zip(groups, tables, said, strict=True)]
    markdown = "\n".join([HEADER, *sections])
    every = pd.concat(
        [
            table.assign(settings=of[2:]) if of else table
            for table, of in zip(tables, said, strict=True)
        ]
    )
    return results.render(
        out / NAME, markdown=markdown, table=every, figure=figure(tables[0])
    )


def summary(group: list[schedule.Row]) -> pd.DataFrame:
    """One line for each training and k: score in %, its standard error, seeds, what the truncation took away."""
    config, metric, by = group[0]["config"], schedule.primary(group[0]), [*VARIED, "k"]
    table = results.summary(group, by=by, metric=metric)
    made = table[by].assign(
        data=config["data"],
        model=config["model"],
        series=[series(dict(line)) for _, line in table.iterrows()],
        metric=metric,
        score=100 * table["mean"],
        error=100 * table.error,
        seeds=table["count"],
    )
    made["error of"] = table.error_kind
    for name in ("relative_error", "energy", "effective_rank"):
        made[name] = results.summary(group, by=by, metric=f"delta/{name}")["mean"]
    size = {
        (series(row["config"]), row["config"]["k"]): row["parameters"] for row in group
    }
    made["parameters"] = [size[cell] for cell in zip(made.series, made.k, strict=True)]
    return made.sort_values(
        ["method", "series", "k"], ascending=[False, True, True], ignore_index=True
    )


def section(group: list[schedule.Row], table: pd.DataFrame, apart: str) -> str:
    """A table for each training of one group of rows, with what it says."""
    config, metric = group[0]["config"], schedule.primary(group[0])
    n, seeds = (
        group[0]["examples"][metric.partition("/")[0]],
        sorted({row["config"]["seed"] for row in group}),
    )
    parts = [
        f"### {name}\n\n{lines(part)}\n{finding(part)}\n"
        for name, part in table.groupby("series", sort=False)
    ]
    claim = paper.claims().loc["L16"].published_value
    hidden = (*VARIED, "seed", "k", "data_source")
    settings = ", ".join(
        f"{name} {value}" for name, value in config.items() if name not in hidden
    )
    return (
        f"## {config['data']}, {config['model']}{apart}\n\n{SMOKE if config['model'] == 'tiny' else ''}"
        f"{metric} in %, {n:,} examples, seeds {seeds}{ERRORS[table['error of'].iloc[0]]}. Parameters are those of the "
        f"rank-k factors. Relative error is ||ΔW - ΔW_k|| / ||ΔW|| over all matrices, energy the share of ||ΔW||² kept, mean "
        f"over matrices (Frobenius norms). The paper's claim, of GPT-3 trained at that rank: {claim} of 12,288 suffices.\n\n"
        + "\n".join(parts)
        + f"\n<details><summary>Settings</summary>\n\n{settings}\n\nData: {config['data_source']}\n\n</details>\n"
    )


def lines(part: pd.DataFrame) -> str:
    """One training's table."""
    shown = pd.DataFrame(
        {
            "k": [f"{k} (all)" if k == part.k.max() else str(k) for k in part.k],
            "parameters": [f"{size:,}" for size in part.parameters],
            "score": [
                f"{score:.1f}" + ("" if np.isnan(error) else f" ± {error:.1f}")
                for score, error in zip(part.score, part.error, strict=True)
            ],
            "relative error": [f"{error:.3f}" for error in part.relative_error],
            "energy": [f"{energy:.3f}" for energy in part.energy],
        }
    )
    return results.markdown(shown, align=dict.fromkeys(shown.columns, "right"))


def finding(part: pd.DataFrame) -> str:
    """From which k on the score stays within one standard error of the whole ΔW's; what that k misses; the control."""
    whole, control = part.iloc[-1], part[part.k == 0]
    text = f"Effective rank of a ΔW (entropy of its singular values), mean over matrices: {whole.effective_rank:.1f} of {whole.k}."
    if not control.empty:
        text += f" Without any ΔW (k = 0) the score is {control.score.iloc[0]:.1f}."
    if np.isnan(whole.error):
        return text
    below = (part.score < whole.score - whole.error).to_numpy()
    least = part[below[::-1].cumsum()[::-1] == 0].iloc[0]  # no k from here on is below
    return (
        f"{text} **From k = {least.k} on it stays within one standard error ({whole.error:.1f}) of the whole ΔW's "
        f"{whole.score:.1f}**; the top {least.k} miss {100 * least.relative_error:.0f} % of ΔW's norm."
    )


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The claim in kind, in the largest group of rows alike: the top 2 directions do as well as all, to a standard error.

    Where no direction does too (k = 0), nothing is said: there is nothing to be kept.
    """
    found = []
    for name, part in summary(
        schedule.groups(rows, but=(*VARIED, "seed", "k"))[0]
    ).groupby("series", sort=False):
        whole = part.iloc[-1]
        for score in part.score[part.k == 2]:
            none = [f", {at:.1f} without any" for at in part.score[part.k == 0]]
            said = f"{score:.1f} against {whole.score:.1f} ± {whole.error:.1f} %{''.join(none)}"
            idle = any(
                as_good(at, whole.score, whole.error) == "seen"
                for at in part.score[part.k == 0]
            )
            verdict = (
                "within the error" if idle else as_good(score, whole.score, whole.error)
            )
            found.append(
                Verdict(
                    "LoRA sections 1, 4.1",
                    f"the top 2 directions of ΔW do as well as all: {name}",
                    said,
                    verdict,
                )
            )
    return found


def figure(table: pd.DataFrame):
    """Score, and relative error, against k; a dotted line is the score at k = 0."""
    parts: Any = {
        str(name): part[part.k > 0]
        for name, part in table.groupby("series", sort=False)
    }
    scores = {name: (part.k, part.score, part.error) for name, part in parts.items()}
    errors = {name: (part.k, part.relative_error, None) for name, part in parts.items()}
    drawn = plots.lines_with_errors(
        scores,
        title=f"{table.model.iloc[0]}, {table.data.iloc[0]} (dotted: k = 0)",
        xlabel="singular directions kept, k",
        ylabel=f"{table.metric.iloc[0]}, %",
        beside=[
            plots.Panel(
                errors,
                "What is missing",
                r"$\Vert\Delta W - \Delta W_k\Vert \ / \ \Vert\Delta W\Vert$",
            )
        ],
    )
    for index, name in enumerate(parts):
        for score in table.score[(table.series == name) & (table.k == 0)]:
            drawn.axes[0].axhline(
                score, color=plots.COLOURS[index % 7], linestyle=":", linewidth=1.5
            )
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, score its truncations, and draw everything."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path = config.out / f"{NAME}.jsonl"
    trainings = schedule.resolved(cells(config))
    schedule.check(trainings)
    missing = [results.pending(path, points(cell, config.ks)) for cell in trainings]
    todo = [
        (cell, configs)
        for cell, configs in zip(trainings, missing, strict=True)
        if configs
    ]
    print(
        f"{sum(map(len, missing))} truncations to score, of {len(todo)} trainings: "
        f"{'; '.join(label(cell) for cell, _ in todo) or 'none'}",
        flush=True,
    )
    if config.dry_run:
        return
    for trained, (_, configs) in zip(
        schedule.trained(config.out, [cell for cell, _ in todo], label),
        todo,
        strict=True,
    ):
        for row in evaluate(trained, configs):
            results.record(path, row)
    print("wrote", *render(results.read(path), config.out))


if __name__ == "__main__":
    cli.script(main)
