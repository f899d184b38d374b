"""The page on published counts of trainable parameters: tables, texts and claims.

A row is one count that the LoRA paper prints (Hu et al. 2021, arXiv 2106.09685v2), what
its closed form comes to, and the verdict on it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from lora_jax.paper.lora import ParameterCount, parameter_counts
from lora_jax.results import claims
from lora_jax.results.claims import Claim
from lora_jax.results.report import Section
from lora_jax.results.rows import Row
from lora_jax.results.tables import table

# The fields of a published count that identify it.
SETTINGS = ("table", "model", "method", "hyperparameters", "published", "known")
# What a row says of the count.
FINDINGS = ("verdict", "difference_percent", "reason")
VERDICTS = (claims.EQUAL, claims.TRUNCATED, claims.UNEXPLAINED)
# LoRA's sets of matrices that the table of ranks has as columns.
TARGETS = ("query", "query,value", "query,key,value,output")
FITTED = "fitted"
PRINTED = "printed"

RANKS = (
    "What LoRA has in the paper, and the largest r that has no more on other targets:"
)
CONTRADICTIONS = """
- Table 15 rounds its counts, but truncates 18.8M, 301.9M, 37.8M and 0.4M. Figure 2 plots
  the last of them at 0.390M, as if l_i were left out.
- Table 10 says that DeBERTa's LoRA has r = 8, which has 2,359,296 parameters; Table 2's
  4.7M is r = 16, as in the official scripts.
- Appendix D.4 names r_q=r_k=r_v=r_o=2 for 37.7M, which has 18,874,368; in Table 15 the
  37.7M have r = 4.
- Table 4's LoRA of 37.7M is two runs of Table 15, alike in size: all four matrices on
  WikiSQL, and r_q=r_v=8 on MNLI.
- Figure 2 plots AdapterH of r = 8 at 41.0M on WikiSQL, but at Table 15's 40.1M on MNLI.
"""


def settings(count: ParameterCount) -> dict[str, Any]:
    """Return the fields that identify a count, which are the settings of its row."""
    return {name: getattr(count, name) for name in SETTINGS}


def identity(config: Mapping[str, Any]) -> tuple:
    """Return the settings of a row as a key."""
    return tuple(config[name] for name in SETTINGS)


def counts_by_identity() -> dict[tuple, ParameterCount]:
    """Return all counts of the paper by `identity`, in its order."""
    counts = {}
    for count in parameter_counts():
        key = identity(settings(count))
        counts[key] = count
    return counts


def count_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a line for each count, in the paper's order.

    The columns are the settings, the closed form, the count on the model's tree (missing
    where the library has none), the verdict, the difference in % and its reason.
    """
    lines = {}
    for row in rows:
        config = row["config"]
        metrics = row["metrics"]
        line = {name: config[name] for name in SETTINGS}
        # Rows have all numbers as floats.
        line["closed form"] = int(metrics["count/closed_form"])
        line["tree"] = metrics.get("count/tree")
        for name in FINDINGS:
            line[name] = row[name]
        lines[identity(config)] = line
    ordered = []
    for key in counts_by_identity():
        # A page may have some of the tables alone.
        if key in lines:
            ordered.append(lines[key])
    # Int64 has whole numbers and missing ones.
    return pd.DataFrame(ordered).astype({"tree": "Int64"})


def verdict_table(counts: pd.DataFrame) -> pd.DataFrame:
    """Return how many counts have which verdict, by table of the paper and in all."""
    is_fitted = counts.known == FITTED
    is_same = counts.tree == counts["closed form"]
    columns = {"counts": counts.verdict.notna()}
    for verdict in VERDICTS:
        # What is fitted has a column of its own, and each count stands once.
        columns[verdict] = (counts.verdict == verdict) & ~is_fitted
    columns[FITTED] = is_fitted
    columns["on the tree"] = counts.tree.notna()
    # A count without a tree is missing here, not false.
    columns["tree = closed form"] = is_same.fillna(False)
    numbers = pd.DataFrame(columns).astype(int)
    by_table = numbers.groupby(counts.table, sort=False).sum()
    by_table.index = [f"Table {number}" for number in by_table.index]
    by_table.loc["all"] = by_table.sum()
    return by_table.rename_axis("").reset_index()


def table_sections(counts: pd.DataFrame) -> list[Section]:
    """Return a section for each table of the paper.

    Tables that print the same counts have one together.
    """
    titles_by_text: dict[str, list[str]] = {}
    for number, part in counts.groupby("table", sort=False):
        titles = titles_by_text.setdefault(published_text(part), [])
        titles.append(f"Table {number}")
    sections = []
    for text, titles in titles_by_text.items():
        sections.append(Section(" and ".join(titles), [text]))
    return sections


def published_text(counts: pd.DataFrame) -> str:
    """Return one of the paper's tables, and below it what is known of open counts."""
    lines = []
    for count in counts.to_dict("records"):
        hyperparameters = count["hyperparameters"]
        # Where they are from, if not from the table itself.
        if count["known"] != PRINTED:
            hyperparameters += f" ({count['known']})"
        verdict = count["verdict"]
        if verdict == claims.UNEXPLAINED:
            verdict += f", {count['difference_percent']:+.2f} %"
        line = {
            "model": count["model"],
            "method": count["method"],
            "hyperparameters": hyperparameters,
            "published": count["published"],
            "closed form": count["closed form"],
            "tree": count["tree"],
            "verdict": verdict,
        }
        lines.append(line)
    # Int64 again, which a list of lines does not keep.
    columns = pd.DataFrame(lines).astype({"tree": "Int64"})
    return table(columns) + _reasons_text(counts)


def _reasons_text(counts: pd.DataFrame) -> str:
    """A list of the reasons of unexplained counts, each reason of a method once."""
    is_open = counts.verdict == claims.UNEXPLAINED
    if not is_open.any():
        return ""
    text = "\nUnexplained:\n\n"
    columns = ["model", "method", "reason"]
    by_reason = counts[is_open].groupby(columns, sort=False)
    for (model, method, reason), published in by_reason.published:
        text += f"- {model} {method}, {', '.join(published)}: {reason}.\n"
    return text


def rank_table(
    counts: pd.DataFrame, rank_text: Callable[[int, str, str], str]
) -> pd.DataFrame:
    """Return which ranks have as many parameters as LoRA has in the paper.

    There is a line for each size of LoRA on each model, and a column for each of
    `TARGETS`. `rank_text(parameters, model, targets)` is the text of a cell.
    """
    loras = counts[counts.method == "LoRA"]
    # The paper has some sizes several times.
    sizes = loras[["model", "closed form"]].drop_duplicates()
    lines = []
    for model, parameters in sizes.itertuples(index=False):
        line = {"model": model, "parameters": parameters}
        for targets in TARGETS:
            line[targets] = rank_text(parameters, model, targets)
        lines.append(line)
    return pd.DataFrame(lines)


def count_claims(counts: pd.DataFrame) -> list[Claim]:
    """Return a claim for each line of `count_table`."""
    result = []
    for count in counts.to_dict("records"):
        name = f"{count['model']} {count['method']} {count['hyperparameters']}"
        statement = f"{name}: {count['published']}"
        verdict = count["verdict"]
        # A setting that was chosen to make the count equal is weak evidence.
        if count["known"] == FITTED and verdict == claims.EQUAL:
            verdict = claims.FITTED
        source = f"LoRA Table {count['table']}"
        evidence = f"{count['closed form']:,}"
        result.append(Claim(source, statement, evidence, verdict))
    return result
