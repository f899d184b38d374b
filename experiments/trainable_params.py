"""LoRA Tables 2 to 5 and 13 to 15: do the published parameter counts follow?

Counts every published "# trainable parameters" of the paper again (Hu et al. 2021, arXiv
2106.09685v2), by section 5.1's closed form and, where the library has model and method,
on the model's own tree. A task's head is never counted. A count is *equal* to the
printed digit; equal if what follows that digit is *truncated*; or *unexplained*, with
the difference of the closed form. Hyperparameters are the table's own or, in brackets,
from elsewhere. *Fitted* ones are not in the paper but chosen to make the count equal,
which is weak evidence; of *nearest* ones none makes it equal, this one differs least.

    python experiments/trainable_params.py
    python experiments/trainable_params.py --tables 15
    python -m lora_jax.accounting 18900000 gpt3-175b query,value    # budget -> rank
"""

from dataclasses import dataclass

import pandas as pd

from lora_jax import accounting, paper, results
from lora_jax.experiment import Experiment, Measurement
from lora_jax.paper.parameter_counts import TABLES, ParameterCount
from lora_jax.results import Claim, Comparison, Report, Section, claims

ARCHITECTURES = {
    "RoBERTa-base": "roberta-base",
    "RoBERTa-large": "roberta-large",
    "DeBERTa-XXL": "deberta-v2-xxl",
    "GPT-2 M": "gpt2-medium",
    "GPT-2 L": "gpt2-large",
    "GPT-3 175B": "gpt3-175b",
}
VERDICTS = (claims.EQUAL, claims.TRUNCATED, claims.UNEXPLAINED)
SETTINGS = ("table", "model", "method", "hyperparameters", "published", "known")
TARGETS = ("query", "query,value", "query,key,value,output")
CONTRADICTIONS = """
- Table 15 rounds, but truncates 18.8M, 301.9M, 37.8M and 0.4M. Figure 2 plots the last
  at 0.390M, as if l_i were left out.
- Table 10 gives DeBERTa's LoRA r = 8, which has 2,359,296; Table 2's 4.7M is r = 16, as
  in the official scripts.
- Appendix D.4 names r_q=r_k=r_v=r_o=2 for 37.7M, which has 18,874,368; in Table 15 it is
  r = 4.
- Table 4's LoRA of 37.7M is two runs of Table 15, alike in size: all four matrices on
  WikiSQL, r_q=r_v=8 on MNLI.
- Figure 2 plots AdapterH of r = 8 at 41.0M on WikiSQL, but at Table 15's 40.1M on MNLI.
"""


@dataclass(frozen=True)
class Options:
    tables: tuple[int, ...] = tuple(TABLES)
    """Tables of the paper."""


PRESETS = {
    "smoke": (Options(tables=(2,)), None),
    "quick": (Options(), None),
    "full": (Options(), None),
}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    items = []
    for count in paper.lora.parameter_counts(options.tables):
        settings = {name: getattr(count, name) for name in SETTINGS}
        items.append(Measurement((), settings, measure))
    return items


def measure(_trained, settings):
    counts = {identity(count): count for count in paper.lora.parameter_counts()}
    for setting in settings:
        count = counts[tuple(setting.values())]
        method = accounting.parse_method(count.method, count.hyperparameters)
        architecture = ARCHITECTURES[count.model]
        closed_form = accounting.trainable_parameters(method, architecture)
        metrics = {"count/closed_form": closed_form}
        on_tree = accounting.tree_parameters(method, architecture)
        if on_tree is not None:
            metrics["count/tree"] = on_tree
        verdict = claims.printed_value(closed_form, count.published)
        is_open = verdict == claims.UNEXPLAINED
        published = claims.parse_printed(count.published)
        yield {
            "metrics": metrics,
            "verdict": verdict,
            "difference_percent": round(100 * (closed_form / published - 1), 2),
            "reason": count.reason if is_open else "",
        }


def identity(count: ParameterCount) -> tuple:
    return tuple(getattr(count, name) for name in SETTINGS)


def show(rows: list) -> Report:
    data = count_table(rows)
    sections = [Section("Verdicts", [verdict_table(data)])]
    same: dict[str, list[str]] = {}  # tables that print the same counts are shown once
    for number, part in data.groupby("table", sort=False):
        same.setdefault(text_of(part), []).append(f"Table {number}")
    for text, titles in same.items():
        sections.append(Section(" and ".join(titles), [text]))
    sections.append(Section("Where the paper contradicts itself", [CONTRADICTIONS]))
    ranks = [
        "What LoRA has in the paper, and the largest r that has no more on other "
        "targets:",
        rank_table(data),
    ]
    sections.append(Section("Which rank for how many parameters?", ranks))
    return Report(
        title="Trainable parameters",
        intro=__doc__,
        sections=sections,
        claims=[count_claim(line) for _, line in data.iterrows()],
        data=data,
        comparison=Comparison(by=SETTINGS, value="closed form", error=""),
    )


def count_table(rows: list) -> pd.DataFrame:
    """A line for each count, in the paper's order."""
    lines = {}
    for row in rows:
        line = {name: row["config"][name] for name in SETTINGS}
        line["closed form"] = int(row["metrics"]["count/closed_form"])
        line["tree"] = row["metrics"].get("count/tree")
        for name in ("verdict", "difference_percent", "reason"):
            line[name] = row[name]
        lines[tuple(line[name] for name in SETTINGS)] = line
    ordered = []
    for count in paper.lora.parameter_counts():
        if identity(count) in lines:
            ordered.append(lines[identity(count)])
    return pd.DataFrame(ordered).astype({"tree": "Int64"})


def verdict_table(data: pd.DataFrame) -> pd.DataFrame:
    """How many counts have which verdict, by table and in all."""
    is_fitted = data.known == "fitted"
    columns = {"counts": data.verdict.notna()}
    for verdict in VERDICTS:
        columns[verdict] = (data.verdict == verdict) & ~is_fitted
    columns["fitted"] = is_fitted
    columns["on the tree"] = data.tree.notna()
    is_same = data.tree == data["closed form"]
    columns["tree = closed form"] = is_same.fillna(False)
    counted = pd.DataFrame(columns).astype(int)
    by_table = counted.groupby(data.table, sort=False).sum()
    by_table.index = [f"Table {number}" for number in by_table.index]
    by_table.loc["all"] = by_table.sum()
    return by_table.rename_axis("").reset_index()


def text_of(part: pd.DataFrame) -> str:
    """One of the paper's tables without its title, and what is known of the rest."""
    is_open = part.verdict == claims.UNEXPLAINED
    source = (" (" + part.known + ")").where(part.known != "printed", "")
    difference = part.difference_percent.map(", {:+.2f} %".format)
    text = part[["model", "method"]].assign(
        hyperparameters=part.hyperparameters + source,
        published=part.published,
        **{name: part[name] for name in ("closed form", "tree")},
        verdict=part.verdict + difference.where(is_open, ""),
    )
    result = results.table(text)
    reasons = part[is_open].groupby(["model", "method", "reason"], sort=False)
    lines = []
    for (model, method, reason), counts in reasons.published:
        lines.append(f"- {model} {method}, {', '.join(counts)}: {reason}.")
    if lines:
        result += "\nUnexplained:\n\n" + "\n".join(lines)
    return result


def rank_table(data: pd.DataFrame) -> pd.DataFrame:
    """For what LoRA has on each model: the rank that has no more, by targets."""
    loras = data[data.method == "LoRA"]
    cases = loras[["model", "closed form"]].drop_duplicates()
    lines = []
    for model, budget in cases.itertuples(index=False):
        line = {"model": model, "parameters": budget}
        for targets in TARGETS:
            line[targets] = rank_text(budget, model, targets)
        lines.append(line)
    return pd.DataFrame(lines)


def rank_text(budget: int, model: str, targets: str) -> str:
    try:
        fit = accounting.rank_for(budget, ARCHITECTURES[model], targets)
    except ValueError:  # not even r = 1
        return "none"
    return f"r = {fit.rank}"


def count_claim(line) -> Claim:
    name = f"{line.model} {line.method} {line.hyperparameters}: {line.published}"
    is_fitted = line.known == "fitted" and line.verdict == claims.EQUAL
    verdict = claims.FITTED if is_fitted else line.verdict
    count = f"{line['closed form']:,}"
    return Claim(f"LoRA Table {line.table}", name, count, verdict)


EXPERIMENT = Experiment(
    "trainable_params", PRESETS, measurements, show, description=__doc__
)

if __name__ == "__main__":
    EXPERIMENT.script()
