"""QLoRA Tables 2 to 4: which format of a frozen base costs how much of the score?

*Alone*: a model that was fine-tuned in full, quantized afterwards and not trained again,
as Table 2 quantizes pretrained models. *LoRA*: an adapter trained on the quantized
pretrained base, as in Tables 3 and 4; Δ is against fp32. The matrices of the blocks are
stored in the format, everything else stays as it was; products are taken in bfloat16
where the machine has it, of fp32 in float32.

Dettmers et al. 2023 (arXiv 2305.14314v1) score language models of 125M to 65B parameters
by perplexity, MMLU and GLUE; here it is a small encoder on film reviews: **which format
is better compares, the scores do not**. What each format costs in bytes and seconds is
in `quantization_cost.py`.

    python experiments/quantization.py                      # 24 trainings, half an hour
    python experiments/quantization.py --model DIRECTORY --formats bf16 nf4_double
    python experiments/quantization.py --preset full        # all rows
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lora_jax import paper, results
from lora_jax.accounting.storage import FORMATS, store_base
from lora_jax.experiment import Experiment, Measurement, RunConfig, presets
from lora_jax.experiment.run import prefixed, score
from lora_jax.results import Claim, Comparison, Report, Section, claims, plots, report

ALONE, LORA = "alone", "lora"  # the parts, as rows name them
TITLES = {ALONE: "alone", LORA: "LoRA"}


@dataclass(frozen=True)
class Options:
    formats: tuple[str, ...] = tuple(FORMATS)
    """Formats of the base."""
    full_learning_rate: float = 1e-4
    """Learning rate of full fine-tuning; --learning-rate is LoRA's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every run is repeated with each of them."""


SMOKE = Options(formats=("fp32", "nf4_double"), seeds=(0,))
PRESETS = {
    "smoke": (SMOKE, presets.SMOKE.changed(batch=8, rank=2)),
    "quick": (Options(), presets.QUICK),
    "full": (Options(), presets.FULL),
}


def measurements(options: Options, base: RunConfig, _benches) -> list[Measurement]:
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown or not options.formats:
        raise ValueError(
            f"formats: expected some of {', '.join(FORMATS)}, "
            f"got {', '.join(unknown) or 'none'}"
        )
    rate = options.full_learning_rate
    items = []
    for seed in options.seeds:
        full = base.changed(method="full", learning_rate=rate, seed=seed)
        for name in options.formats:
            settings = {"part": ALONE, "type": row_name(name)}
            items.append(Measurement((full,), settings, measure_alone))
    for seed in options.seeds:
        for name in options.formats:
            storage = FORMATS[name]
            run = base.changed(quantize=storage.quantize, compute=storage.compute)
            settings = {"part": LORA, "type": row_name(name)}
            items.append(Measurement((run.changed(seed=seed),), settings, measure_lora))
    return items


def row_name(name: str) -> str:
    """The format's name in rows, which were there before the present spelling."""
    return name.replace("_", "-")


def measure_alone(trained, settings):
    """Quantize a model that was trained in full, and score it."""
    model, row, bench = trained[0]
    split = bench.test_split
    for setting in settings:
        storage = FORMATS[setting["type"].replace("-", "_")]
        stored = store_base(model, storage)
        scores = score(bench, stored, split, compute=storage.compute_dtype)
        yield row_of(row, prefixed(split, scores))


def measure_lora(trained, settings):
    """Take the scores of the training itself."""
    row = trained[0].row
    scores = {}
    for name, value in row["metrics"].items():
        if not name.startswith("validation/"):
            scores[name] = value
    for _ in settings:
        yield row_of(row, scores or row["metrics"])


def row_of(row, scores) -> dict:
    return {"metrics": scores, "examples": row["examples"], "trained": row["metrics"]}


def show(rows: list) -> Report:
    sections = []
    tables = []
    for model, data in dict.fromkeys(map(model_and_data, rows)):
        group_rows = [row for row in rows if model_and_data(row) == (model, data)]
        table = format_table(group_rows).assign(model=model)
        tables.append(table)
        group = results.groups(group_rows, AXES)[0]
        blocks = [*report.warning(group), text_table(table), report.settings(group)]
        sections.append(Section(f"{model}, {data}", blocks))
    published = paper.qlora.scores_by_format()
    trend = "Of other models and tasks: **a trend**. Lower perplexity is better."
    sections.append(Section("The paper's values", [trend, published]))
    return Report(
        title="Formats of a frozen base",
        intro=__doc__,
        sections=sections,
        claims=table_claims(tables[0]),
        data=pd.concat(tables),
        figures=figure(tables[0]),
        comparison=Comparison(by=("model", "type"), value="LoRA", error="LoRA error"),
    )


AXES = (
    *("part", "type", "seed", "quantize", "compute", "method", "learning_rate"),
    *("targets", "rank", "alpha", "bias", "dropout", "init", "rank_stabilized"),
    "layers",
)


def model_and_data(row) -> tuple[str, str]:
    return row["config"]["model"], row["config"]["data"]


def format_table(rows: list) -> pd.DataFrame:
    """A line for each format: both scores in %, of the largest group of each part."""
    table = pd.DataFrame({"type": [row_name(name) for name in FORMATS]})
    for part, title in TITLES.items():
        part_rows = [row for row in rows if row["config"]["part"] == part]
        if part_rows:
            axes = ("type", "seed", "quantize", "compute")
            group = results.groups(part_rows, axes)[0]
            scores = results.scores(group, ["type"])[["type", "score", "error"]]
            names = {"score": title, "error": f"{title} error"}
            table = table.merge(scores.rename(columns=names), on="type", how="left")
    measured = table.drop(columns="type").notna().any(axis=1)
    table["type"] = list(FORMATS)
    return table[measured].reset_index(drop=True)


def text_table(table: pd.DataFrame) -> pd.DataFrame:
    text = table[["type"]].copy()
    for title in TITLES.values():
        if title in table:
            text[title] = results.plus_minus(table[title], table[f"{title} error"])
    by_type = table.set_index("type")
    if "LoRA" in table and "fp32" in by_type.index:
        difference = table["LoRA"] - by_type["LoRA"]["fp32"]
        unknown = [np.nan] * len(table)
        text["Δ"] = results.plus_minus(difference, unknown, sign="+")
    return text


def table_claims(table: pd.DataFrame) -> list[Claim]:
    """The paper's findings about formats."""
    by_type = table.set_index("type")
    statements = [
        (
            claims.difference,
            "QLoRA Table 2",
            "alone",
            "nf4_double",
            "fp4",
            "without training NF4 + DQ is better than FP4",
        ),
        (
            claims.difference,
            "QLoRA Table 2",
            "alone",
            "fp4",
            "int4",
            "without training FP4 is better than Int4",
        ),
        (
            claims.no_worse,
            "QLoRA Table 3",
            "LoRA",
            "int8",
            "bf16",
            "LoRA on Int8 is as good as on BF16",
        ),
        (
            claims.no_worse,
            "QLoRA Tables 3, 4",
            "LoRA",
            "nf4_double",
            "bf16",
            "LoRA on NF4 + DQ is as good as on BF16",
        ),
        (
            claims.difference,
            "QLoRA Table 4 (Q15)",
            "LoRA",
            "nf4_double",
            "fp4",
            "LoRA on FP4 is worse than on NF4 + DQ",
        ),
        (
            claims.no_worse,
            "QLoRA section 4",
            "LoRA",
            "nf4_double",
            "nf4",
            "double quantization costs nothing",
        ),
    ]
    result = []
    for judge, source, part, better, worse, statement in statements:
        if part in table and {better, worse} <= set(by_type.index):
            scores = [score_of(by_type, name, part) for name in (better, worse)]
            if not any(np.isnan(one.value) for one in scores):
                result.append(judge(source, statement, *scores))
    return result


def score_of(by_type: pd.DataFrame, name: str, part: str) -> claims.Score:
    line = by_type.loc[name].to_dict()
    return claims.Score(line[part], line[f"{part} error"])


def figure(table: pd.DataFrame) -> dict:
    """Both scores of each format."""
    labels = {
        "alone": "fine-tuned, then quantized",
        "LoRA": "LoRA on the quantized base",
    }
    series = {}
    for part, label in labels.items():
        if part in table:
            series[label] = (table["type"], table[part], table[f"{part} error"])
    values = np.concatenate([np.asarray(y, float) for _, y, _ in series.values()])
    base = max(0.0, 5 * np.floor((np.nanmin(values) - 3) / 5))
    start = f" (bars start at {base:.0f})" if base else ""
    drawn = plots.bars_with_errors(
        series,
        title=table.model.iloc[0],
        xlabel="format of the blocks' matrices",
        ylabel=f"score, %{start}",
        ylim=(float(base), float(np.nanmax(values) + 2)),
    )
    return {"": drawn}


EXPERIMENT = Experiment(
    "quantization",
    PRESETS,
    measurements,
    show,
    description=__doc__,
    keep=True,
    hidden=("quantize", "method", "compute"),
)

if __name__ == "__main__":
    EXPERIMENT.script()
