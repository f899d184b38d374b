"""What LoRA published (Hu et al. 2021, arXiv:2106.09685v2), in this library's words.

The CSV files of `paper_tables/` hold the paper's own notation: `Wq,Wv`, `AdptH`,
`MNLI`. The functions here translate it once, so that a published table joins a table
of ours by its columns: `targets` as the flag `--targets` spells them, `rank`, `method`
in one spelling, `value` and `std` in the paper's unit (accuracies in per cent).
The figures are in `lora_figures`, Tables 9 and 11 in `lora_hyperparameters`, the counts
of trainable parameters in `parameter_counts`; all have their names here too.
"""

from typing import Any

import pandas as pd

from lora_jax.paper.lora_figures import (
    FIGURE8_ROWS,
    LAYERS,
    MIDDLE_LAYER,
    WIDTH,
    figure3_and_6,
    figure4_and_7,
    figure5,
    figure8,
    figure8_range,
)
from lora_jax.paper.lora_hyperparameters import GLUE, table9_epochs, table11
from lora_jax.paper.parameter_counts import ParameterCount, parameter_counts
from lora_jax.paper.spelling import METHODS, TARGETS, spell_method
from lora_jax.paper.tables import table

__all__ = [
    "AMPLIFICATION",
    "DATASETS",
    "FIGURE8_ROWS",
    "GLUE",
    "LAYERS",
    "METHODS",
    "MIDDLE_LAYER",
    "TABLE4_COLUMNS",
    "TARGETS",
    "TEXT_TABLES",
    "WIDTH",
    "ParameterCount",
    "beside",
    "figure3_and_6",
    "figure4_and_7",
    "figure5",
    "figure8",
    "figure8_range",
    "parameter_counts",
    "scores_by_metric",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "table7",
    "table9_epochs",
    "table11",
    "table13",
    "table14",
    "table18",
]

# WikiSQL's validation set, and MultiNLI's matched one.
DATASETS = ("WikiSQL", "MultiNLI")
"""The data sets of Tables 5 and 6, as printed."""

# Our metric, then Table 7's quantity and the subspace it is taken in.
AMPLIFICATION = {
    "of_delta": ("||U^T W_q V^T||_F", "Delta W_q"),
    "of_w": ("||U^T W_q V^T||_F", "W_q"),
    "of_random": ("||U^T W_q V^T||_F", "Random"),
    "delta": ("||Delta W_q||_F", "Delta W_q"),
    "w": ("||W_q||_F", "W_q"),
    "factor": ("amplification ||dW||_F/||U^T W V^T||_F", "Delta W_q"),
}
"""The quantities of Table 7 by the name of our metric."""

# METEOR and ROUGE-L are fractions in the table, and BLEU is in per cent.
# Table 18's metric, then ours and the factor from the paper's unit to per cent.
_TABLE18_METRICS = {
    "val_loss": ("validation/loss", 1),
    "BLEU": ("test/bleu", 1),
    "NIST": ("test/nist", 1),
    "METEOR": ("test/meteor", 100),
    "ROUGE_L": ("test/rouge_l", 100),
    "CIDEr": ("test/cider", 1),
}

# Accuracy in per cent, and ROUGE-1, 2 and L of the summaries.
TABLE4_COLUMNS = {
    "wikisql": ["WikiSQL"],
    "mnli-text": ["MNLI-m"],
    "samsum": ["SAMSum-R1", "SAMSum-R2", "SAMSum-RL"],
}
"""The columns of Table 4 that belong to a task of ours."""


def table2() -> pd.DataFrame:
    """Return Table 2, GLUE: model, method, trainable_params, dataset, value, std.

    `dataset` is our name of the task, or `average` for the mean of all eight.
    """
    published = _spelled("lora_table2_glue")
    # Their mean is a column of the table, beside the tasks.
    names = {"Avg": "average"}
    for task, printed in GLUE.items():
        names[printed] = task
    return published.assign(dataset=published.task.map(names))


def table3() -> pd.DataFrame:
    """Return Table 3, E2E: model, method, trainable_params, metric, value, std."""
    return _spelled("lora_table3_e2e")


def table4() -> pd.DataFrame:
    """Return Table 4, GPT-3 175B: method, trainable_params, and a column a score.

    `TABLE4_COLUMNS` says which columns belong to a task of ours.
    """
    published = _spelled("lora_table4_gpt3")
    # A line for each method and size, as in the paper.
    lines = ["method", "trainable_params"]
    wide = published.pivot_table(
        index=lines, columns="task", values="value", sort=False
    )
    return wide.reset_index().rename_axis(columns=None)


def table5() -> pd.DataFrame:
    """Return Table 5, types of weights: targets, rank, dataset, value, std."""
    return _by_targets("lora_table5_weight_types")


def table6() -> pd.DataFrame:
    """Return Table 6, the rank sweep: targets, rank, dataset, value, std."""
    return _by_targets("lora_table6_rank")


def table7() -> pd.DataFrame:
    """Return Table 7: matrix, rank, layer, and a column for each of `AMPLIFICATION`.

    The matrix is the query of layer 48 of 96, the ranks are 4 and 64.
    """
    published = table("lora_table7_amplification")
    lines = []
    # The table has both ranks side by side.
    for rank in (4, 64):
        # The norm of W itself does not depend on the rank: its cell for it is empty.
        of_rank = published[(published.r == rank) | published.r.isna()]
        value = of_rank.set_index(["quantity", "subspace_from"]).value
        line: dict[str, Any] = {"matrix": "query", "rank": rank, "layer": MIDDLE_LAYER}
        # One cell for each quantity.
        for name, quantity in AMPLIFICATION.items():
            line[name] = value[quantity]
        lines.append(line)
    return pd.DataFrame(lines)


def table13() -> pd.DataFrame:
    """Return Table 13, DART: model, method, trainable_params, metric, value, std."""
    return _spelled("lora_table13_dart")


def table14() -> pd.DataFrame:
    """Return Table 14, WebNLG: model, method, trainable_params, metric, value, std.

    The metric says the part of the test split too: `BLEU unseen`, `BLEU seen`,
    `BLEU all`.
    """
    published = _spelled("lora_table14_webnlg")
    return published.assign(metric=published.metric + " " + published.split)


def table18() -> pd.DataFrame:
    """Return Table 18, GPT-2 medium on E2E: targets, rank, and a column a metric.

    The metrics have our names and units: `test/meteor` and `test/rouge_l` are in per
    cent here, as fractions in the paper.
    """
    # Query and value throughout, r from 1 to 1,024.
    published = _by_targets("lora_table18_gpt2_rank")
    wide = published.pivot_table(
        index=["targets", "rank"], columns="metric", values="value", sort=False
    )
    # In the order of our metrics, in our units.
    columns = {}
    for printed, (name, factor) in _TABLE18_METRICS.items():
        columns[name] = factor * wide[printed]
    return pd.DataFrame(columns).reset_index()


# Each has BLEU and METEOR; the rest differ as the tasks' official scorers do.
TEXT_TABLES = {"e2e": table3, "dart": table13, "webnlg": table14}
"""The table of scores of generated text for a task of ours."""


def scores_by_metric(published: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each model, method and count, and a column for each metric.

    It takes what `table3`, `table13` and `table14` return.
    """
    # AdapterL stands twice for each model, with counts apart.
    lines = ["model", "method", "trainable_params"]
    wide = published.pivot_table(
        index=lines, columns="metric", values="value", sort=False
    )
    return wide.reset_index().rename_axis(columns=None)


def beside(
    scores: pd.DataFrame, published: pd.DataFrame, on: list[str]
) -> pd.DataFrame:
    """Return `scores` with the published values of each data set in columns beside.

    They are `paper DATASET` and `paper DATASET std`, empty where the paper has no line
    with the same values of the columns `on`.
    """
    # One join a data set, so that its columns stand together.
    joined = scores
    for dataset, part in published.groupby("dataset", sort=False):
        names = {"value": f"paper {dataset}", "std": f"paper {dataset} std"}
        columns = part.rename(columns=names)[[*on, *names.values()]]
        joined = joined.merge(columns, on=on, how="left")
    return joined


def _spelled(name: str) -> pd.DataFrame:
    published = table(name)
    # The tables shorten some methods as space allows.
    methods = published.method.map(spell_method)
    return published.assign(method=methods)


def _by_targets(name: str) -> pd.DataFrame:
    published = table(name)
    # Ranks are read as floats, as all numbers of these files.
    targets = published.weight_type.map(TARGETS)
    return published.assign(targets=targets, rank=published.r.astype(int))
