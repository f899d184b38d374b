"""The "# trainable parameters" of LoRA's Tables 2, 3, 4, 5, 13, 14 and 15: each published count, counted again.

Paper: Hu et al. 2021 (arXiv 2106.09685v2), section 5.1. Each count stands beside the closed form of its method and, where the
library has the model and the method, beside the parameter tree (shapes alone: GPT-3's 175 billion take no memory), with a verdict.
What the paper does not say, such as an adapter's r, is fitted to the count and marked. Nothing is trained and nothing is fetched.

    python experiments/trainable_params.py                # quick; full is the same: 15 seconds on two cores
    python experiments/trainable_params.py --budget 18900000 --architecture gpt3-175b --targets query,value
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from lora_jax import accounting, paper, results
from lora_jax.experiment import cli, provenance
from lora_jax.results.claims import Verdict

NAME = "trainable_params"
TABLES = {
    15: "lora_table15_gpt3_hparam_vs_params",
    4: "lora_table4_gpt3",
    5: "lora_table5_weight_types",
    2: "lora_table2_glue",
    3: "lora_table3_e2e",
    13: "lora_table13_dart",
    14: "lora_table14_webnlg",
}
MODELS = {
    "RoBERTa-base": "roberta-base",
    "RoBERTa-large": "roberta-large",
    "DeBERTa-XXL": "deberta-v2-xxl",
    "GPT-2 M": "gpt2-medium",
    "GPT-2 L": "gpt2-large",
    "GPT-3 175B": "gpt3-175b",
}


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: Table 2 alone. quick and full: every table; there is nothing to shorten."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    tables: tuple[int, ...] = tuple(TABLES)
    """Tables of the paper."""
    budget: int | None = None
    """Count nothing, but say which rank has at most so many parameters."""
    architecture: str = "gpt3-175b"
    """Of --budget: gpt3-175b, roberta-base, minilm-l6, ..."""
    targets: str = "query,value"
    """Of --budget: names among query, key, value, output, up, down."""


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), tables=(2,)),
    "quick": Config(),
    "full": Config("full"),
}


class Count(NamedTuple):
    """A published count, as printed; `known` says where the hyperparameters are from."""

    table: int
    model: str
    method: str
    hyperparameters: str
    published: str
    known: str


def published(tables: Sequence[int] = tuple(TABLES)) -> list[Count]:
    """Each distinct count of the tables, Table 15's first, then in the paper's order.

    Raises:
        ValueError: no table, or one without counts; names those that have them.
    """
    unknown = ", ".join(str(number) for number in tables if number not in TABLES)
    if unknown or not tables:
        raise ValueError(
            f"tables: expected some of {', '.join(map(str, TABLES))}, got {unknown or 'none'}"
        )
    lines = [
        (n, line)
        for n in TABLES
        if n in tables
        for line in paper.table(TABLES[n]).to_dict("records")
    ]
    return list(dict.fromkeys(_count(number, line) for number, line in lines))


def _count(number: int, line: Any) -> Count:
    model, printed = line["model"], line["trainable_params"].partition(" ")[0]
    method = SPELLINGS.get(method := str(line.get("method", "LoRA")), method)
    if "weight_type" in line:
        found = (
            f"{line['weight_type'].replace('W', 'r_').replace(',', '=')}={line['r']:g}",
            "printed",
        )
    elif "hyperparameters" in line:
        found = line["hyperparameters"], "printed"
    else:
        found = CONFIGURATIONS.get((model, method, printed), ("-", "printed"))
    return Count(number, model, method, found[0], printed, found[1])


SPELLINGS = {
    "FT": "Fine-Tune",
    "PreEmbed": "PrefixEmbed",
    "PreLayer": "PrefixLayer",
    "PrefLayer": "PrefixLayer",
    "Prefix": "PrefixLayer",
    "AdptH": "AdapterH",
    "AdptP": "AdapterP",
    "AdptD": "AdapterD",
}
CONFIGURATIONS = {
    (model, method, count): (hyperparameters, known)
    for model, method, counts, hyperparameters, known in (
        ("RoBERTa-base", "AdapterD", "0.3M", "r=48,blocks=4", "fitted"),
        ("RoBERTa-base", "AdapterD", "0.9M", "r=48", "fitted"),
        ("RoBERTa-base", "LoRA", "0.3M", "r_q=r_v=8", "Table 9"),
        ("RoBERTa-large", "LoRA", "0.8M", "r_q=r_v=8", "Table 9"),
        ("RoBERTa-large", "AdapterP", "3.0M", "r=64", "Table 9"),
        ("RoBERTa-large", "AdapterP", "0.8M", "r=16", "Table 9"),
        ("RoBERTa-large", "AdapterH", "6.0M", "r=64", "Table 9"),
        ("RoBERTa-large", "AdapterH", "0.8M", "r=8", "Table 9"),
        ("DeBERTa-XXL", "LoRA", "4.7M", "r_q=r_v=16", "official scripts"),
        ("GPT-2 M", "AdapterL", "0.37M", "r=6", "fitted"),
        ("GPT-2 M", "AdapterL", "11.09M 11M", "r=224", "fitted"),
        ("GPT-2 M", "AdapterH", "11.09M", "r=112", "nearest"),
        ("GPT-2 M", "PrefixLayer", "0.35M", "l_p=14,l_i=0", "nearest"),
        ("GPT-2 M", "LoRA", "0.35M", "r_q=r_v=4", "Table 11"),
        ("GPT-2 L", "AdapterL", "0.88M", "r=8", "fitted"),
        ("GPT-2 L", "AdapterL", "23.00M 23M", "r=248", "fitted"),
        ("GPT-2 L", "PrefixLayer", "0.77M", "l_p=17,l_i=0", "nearest"),
        ("GPT-2 L", "LoRA", "0.77M", "r_q=r_v=4", "Table 11"),
        ("GPT-3 175B", "PrefixEmbed", "3.2M", "l_p=256,l_i=8", "appendix D.4"),
        ("GPT-3 175B", "PrefixLayer", "20.2M", "l_p=8,l_i=8", "appendix D.4"),
        ("GPT-3 175B", "AdapterH", "7.1M", "r=1", "Table 15"),
        ("GPT-3 175B", "AdapterH", "40.1M", "r=8", "Table 15"),
        ("GPT-3 175B", "LoRA", "4.7M", "r_v=2", "Table 15"),
        ("GPT-3 175B", "LoRA", "37.7M", "r_q=r_v=8", "Table 15"),
    )
    for count in counts.split()
}


def judged(count: int, printed: str) -> dict[str, Any]:
    """The verdict on a count, printed as `0.35M` or `175,255.8M`, and its difference from the published one in %."""
    digits, ours = (
        Decimal(printed[:-1].replace(",", "")),
        count / Decimal({"M": 10**6, "B": 10**9}[printed[-1]]),
    )
    modes = {"equal": ROUND_HALF_UP, "truncated": ROUND_DOWN}
    found = [
        verdict
        for verdict, mode in modes.items()
        if ours.quantize(digits, mode) == digits
    ]
    return {
        "verdict": [*found, "unexplained"][0],
        "difference_percent": round(float(100 * (ours / digits - 1)), 2),
    }


def row(count: Count) -> dict[str, Any]:
    """The count's results row, without provenance; where it is unexplained, with what is known of the reason."""
    method, architecture = (
        accounting.parse_method(count.method, count.hyperparameters),
        MODELS[count.model],
    )
    closed = accounting.trainable_parameters(method, architecture)
    tree = accounting.tree_parameters(method, architecture)
    said = judged(closed, count.published)
    reason = (
        REASONS[count.model, count.method] if said["verdict"] == "unexplained" else ""
    )
    metrics = {"count/closed_form": closed} | (
        {} if tree is None else {"count/tree": tree}
    )
    return {"config": count._asdict(), "metrics": metrics, **said, "reason": reason}


POOLER = "a nominal size; {:,} with the pretrained pooler, in whose place a classifier has its head"
REASONS = {
    ("RoBERTa-base", "Fine-Tune"): POOLER.format(
        accounting.total_parameters("roberta-base")
    ),
    ("RoBERTa-large", "Fine-Tune"): POOLER.format(
        accounting.total_parameters("roberta-large")
    ),
    ("DeBERTa-XXL", "Fine-Tune"): "a nominal size",
    ("RoBERTa-large", "AdapterP"): "its matrices alone, without biases, are 3.0 x 2^20",
    ("RoBERTa-large", "AdapterH"): "its matrices alone, without biases, are 6.0 x 2^20",
    ("GPT-2 M", "Fine-Tune"): "as if the model had 98,304 more",
    (
        "GPT-2 M",
        "FTTop2",
    ): "Table 3 prints 25.19M for it, which is what two blocks have",
    (
        "GPT-2 M",
        "AdapterH",
    ): "no whole r gives it; AdapterL has the same printed count, and r = 224 gives that",
    (
        "GPT-2 M",
        "PrefixLayer",
    ): "no whole number of tokens gives it; nominally 0.1 % of the model",
    (
        "GPT-2 L",
        "PrefixLayer",
    ): "no whole number of tokens gives it; nominally 0.1 % of the model",
    (
        "GPT-2 M",
        "LoRA",
    ): "prefix-tuning's nominal 0.1 %; the official checkpoint, 1.5 MB, is 393,216 x 4 bytes",
    ("GPT-2 L", "LoRA"): "prefix-tuning's nominal 0.1 % of the model",
    (
        "GPT-3 175B",
        "Fine-Tune",
    ): "175,221.8M if the output embedding were not the input's",
    (
        "GPT-3 175B",
        "BitFit",
    ): "12 L d = 14,155,776 would print so; with those of the norms a block has 11 d biases",
    (
        "GPT-3 175B",
        "PrefixLayer",
    ): "no row fits, no rule gives all; Figure 2 plots (8, 8) at 20.263M = 17 x 97 d",
    (
        "GPT-3 175B",
        "LoRA",
    ): "Figure 2 plots 603.9M; twice the 301.9M printed for half as many matrices",
    ("GPT-3 175B", "LoRA+PL"): "its LoRA is 37,748,736; its prefix is as PrefixLayer",
}


def render(rows: list[dict[str, Any]], out: Path) -> list[Path]:
    """Draw out/trainable_params.md and .csv from the rows alone, in the order of `published`."""
    made = {row["key"]: _line(row) for row in rows}
    keys = [results.key(count._asdict()) for count in published()]
    data = pd.DataFrame([made[key] for key in keys if key in made]).astype(
        {"tree": "Int64"}
    )
    alike: dict[str, list[str]] = {}  # tables that print the same counts are shown once
    for number, part in data.groupby("table", sort=False):
        alike.setdefault(section(part), []).append(f"Table {number}")
    sections = [
        f"## {' and '.join(numbers)}\n\n{text}" for text, numbers in alike.items()
    ]
    ranks = results.markdown(budgets(data), align={"parameters": "right"})
    markdown = "\n".join(
        [HEADER, results.markdown(summary(data)), *sections, NOTES, ranks]
    )
    return results.render(out / NAME, markdown=markdown, table=data)


def _line(row: dict[str, Any]) -> dict[str, Any]:
    config = {name: row["config"][name] for name in Count._fields}
    counts = {
        "closed form": int(row["metrics"]["count/closed_form"]),
        "tree": row["metrics"].get("count/tree"),
    }
    return (
        config
        | counts
        | {name: row[name] for name in ("verdict", "difference_percent", "reason")}
    )


def verdicts(rows: list[dict[str, Any]]) -> list[Verdict]:
    """Each published count beside ours."""
    found = []
    for row in rows:
        count = Count(**{name: row["config"][name] for name in Count._fields})
        what = (
            f"{count.model} {count.method} {count.hyperparameters}: {count.published}"
        )
        said = (
            "fitted"
            if count.known == "fitted" and row["verdict"] == "equal"
            else row["verdict"]
        )
        found.append(
            Verdict(
                f"LoRA Table {count.table}",
                what,
                f"{row['metrics']['count/closed_form']:,.0f}",
                said,
            )
        )
    return found


def summary(data: pd.DataFrame) -> pd.DataFrame:
    """How many counts have which verdict, by table and in all."""
    fitted = data.known == "fitted"
    said = {
        verdict: (data.verdict == verdict) & ~fitted
        for verdict in ("equal", "truncated", "unexplained")
    }
    said |= {"fitted": fitted, "on the tree": data.tree.notna()}
    said |= {"tree = closed form": (data.tree == data["closed form"]).fillna(False)}
    each: Any = pd.DataFrame({"counts": True, **said})
    made = (
        each.astype(int)
        .groupby(data.table, sort=False)
        .sum()
        .rename(index="Table {}".format)
    )
    return pd.concat([made, made.sum().to_frame("all").T]).rename_axis("").reset_index()


def section(part: pd.DataFrame) -> str:
    """One of the paper's tables without its title, and the reasons known for what is unexplained."""
    wrong = part.verdict == "unexplained"
    shown = part[["model", "method"]].assign(
        hyperparameters=part.hyperparameters
        + (" (" + part.known + ")").where(part.known != "printed", ""),
        published=part.published,
        **{
            name: part[name].map("{:,}".format, na_action="ignore")
            for name in ("closed form", "tree")
        },
        verdict=part.verdict
        + part.difference_percent.map(", {:+.2f} %".format).where(wrong, ""),
    )
    text = results.markdown(
        shown, align=dict.fromkeys(("published", "closed form", "tree"), "right")
    )
    reasons: Any = (
        part[wrong]
        .groupby(["model", "method", "reason"], sort=False)
        .published.agg(", ".join)
    )
    said = [
        f"- {model} {method}, {which}: {reason}.\n"
        for (model, method, reason), which in reasons.items()
    ]
    return text + ("\nUnexplained:\n\n" + "".join(said) if said else "")


def budgets(data: pd.DataFrame) -> pd.DataFrame:
    """For what the paper's LoRA has on each model: the rank that has no more, on three sets of targets."""
    loras: Any = data[data.method == "LoRA"]
    cases = loras[["model", "closed form"]].drop_duplicates()
    return pd.DataFrame(
        {"model": model, "parameters": f"{budget:,}"}
        | {targets: _rank(budget, model, targets) for targets in SETS}
        for model, budget in cases.itertuples(index=False)
    )


SETS = ("query", "query,value", "query,key,value,output")


def _rank(budget: int, model: str, targets: str) -> str:
    try:
        return f"r = {accounting.rank_for(budget, MODELS[model], targets).rank}"
    except ValueError:
        return "none"


HEADER = """# Trainable parameters

Every published "# trainable parameters" of the LoRA paper, counted again by `python experiments/trainable_params.py`. Closed form:
section 5.1's. Tree: counted on the library's own model, where it has model and method. A task's head is never counted.

Verdicts: *equal* to the printed digit; equal if what follows that digit is *truncated*; or *unexplained*, with the difference of
the closed form from the published count. Hyperparameters are the table's own or, in brackets, from elsewhere; *fitted*: not in the
paper, chosen to make the count equal, weak evidence and so apart here; *nearest*: none makes it equal, this differs least.
"""
NOTES = """## Where the paper contradicts itself

- Table 15 rounds, but truncates 18.8M, 301.9M, 37.8M and 0.4M. Figure 2 plots the last at 0.390M, as if l_i were left out.
- Table 10 gives DeBERTa's LoRA r = 8, which has 2,359,296; Table 2's 4.7M is r = 16, as in the official scripts.
- Appendix D.4 names r_q=r_k=r_v=r_o=2 for 37.7M, which has 18,874,368; in Table 15 it is r = 4.
- Table 4's LoRA of 37.7M is two runs of Table 15, alike in size: all four matrices on WikiSQL, r_q=r_v=8 on MNLI.
- Figure 2 plots AdapterH of r = 8 at 41.0M on WikiSQL, but at Table 15's 40.1M on MNLI.

## Which rank for how many parameters?

What LoRA has in the paper, and the largest r that has no more on other targets; `--budget` answers it for any number.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Count what is missing and draw everything; with --budget only answer."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    if config.budget is not None:
        fit = accounting.rank_for(config.budget, config.architecture, config.targets)
        said = f"{config.architecture}, {config.targets}, at most {config.budget:,} parameters"
        print(f"{said}: r = {fit.rank} has {fit.parameters:,} and leaves {fit.left:,}")
        return
    path, made_with = config.out / f"{NAME}.jsonl", provenance.provenance()
    for count in results.pending(
        path, [count._asdict() for count in published(config.tables)]
    ):
        results.record(path, row(Count(**count)) | {"provenance": made_with})
    for drawn in render(results.read(path), config.out):
        print(drawn)


if __name__ == "__main__":
    cli.script(main)
