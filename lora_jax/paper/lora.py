"""What LoRA published (Hu et al. 2021, arXiv:2106.09685v2), in this library's words.

The CSV files of `paper_tables/` hold the paper's own notation: `Wq,Wv`, `AdptH`,
`MNLI`. The functions here translate it once, so that a published table joins a table
of ours by its columns: `targets` as the flag `--targets` spells them, `rank`, `method`
in one spelling, `value` and `std` in the paper's unit (accuracies in per cent).
The figures are in `lora_figures`, the counts of trainable parameters in
`parameter_counts`.
"""

from typing import Any

import pandas as pd

from lora_jax.paper.lora_figures import (
    LAYERS,
    MIDDLE_LAYER,
    WIDTH,
    figure3_and_6,
    figure4_and_7,
    figure5,
    figure8,
)
from lora_jax.paper.parameter_counts import ParameterCount, parameter_counts
from lora_jax.paper.spelling import METHODS, TARGETS, spell_method
from lora_jax.paper.tables import table

__all__ = [
    "AMPLIFICATION",
    "DATASETS",
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

DATASETS = ("WikiSQL", "MultiNLI")
"""The data sets of Tables 5 and 6, as printed."""

GLUE = {
    "mnli": "MNLI",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "cola": "CoLA",
    "qnli": "QNLI",
    "qqp": "QQP",
    "rte": "RTE",
    "stsb": "STS-B",
}
"""The paper's name of each GLUE task of ours."""

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

# Table 11's name of a hyperparameter, then ours and its type.
_TABLE11_FIELDS = {
    "weight_decay": ("weight_decay", float),
    "dropout_prob": ("dropout", float),
    "batch_size": ("batch", int),
    "epochs": ("epochs", int),
    "warmup_steps": ("warmup_steps", int),
    "label_smooth": ("label_smoothing", float),
    "learning_rate": ("learning_rate", float),
    "lora_alpha": ("alpha", float),
    "beam_size": ("beam", int),
    "length_penalty": ("length_penalty", float),
    "no_repeat_ngram_size": ("no_repeat", int),
}

# Table 18's metric, then ours and the factor from the paper's unit to per cent.
_TABLE18_METRICS = {
    "val_loss": ("validation/loss", 1),
    "BLEU": ("test/bleu", 1),
    "NIST": ("test/nist", 1),
    "METEOR": ("test/meteor", 100),
    "ROUGE_L": ("test/rouge_l", 100),
    "CIDEr": ("test/cider", 1),
}

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
    for rank in (4, 64):
        # The norm of W itself does not depend on the rank: its cell for it is empty.
        of_rank = published[(published.r == rank) | published.r.isna()]
        value = of_rank.set_index(["quantity", "subspace_from"]).value
        line: dict[str, Any] = {"matrix": "query", "rank": rank, "layer": MIDDLE_LAYER}
        for name, quantity in AMPLIFICATION.items():
            line[name] = value[quantity]
        lines.append(line)
    return pd.DataFrame(lines)


def table9_epochs(task: str) -> int:
    """Return Table 9's epochs for RoBERTa-base with LoRA on a GLUE task.

    Raises:
        ValueError: Table 9 does not have the task.
    """
    published = table("lora_table9_roberta_hparams")
    is_lora = (published.model == "RoBERTa-base") & (published.method == "LoRA")
    epochs = published[is_lora & (published.hparam == "epochs")]
    matches = epochs[epochs.dataset == GLUE.get(task)]
    if matches.empty:
        raise ValueError(
            "epochs: expected 1 or more; 0 takes Table 9's, which has "
            f"{', '.join(GLUE)} but not {task!r}"
        )
    return int(matches.value.iloc[0])


def table11(task: str) -> dict[str, Any]:
    """Return Table 11's hyperparameters for GPT-2 on a task, by the names of our flags.

    `warmup_steps` is in steps, where our flag `warmup` is a share of all steps. The
    rank is 4 on query and value for every task.

    Raises:
        ValueError: the task is none of e2e, webnlg and dart.
    """
    published = table("lora_table11_gpt2_hparams")
    of_task = published[published.dataset.str.lower() == task]
    if of_task.empty:
        tasks = ", ".join(published.dataset.str.lower().unique())
        raise ValueError(f"task: expected one of Table 11, {tasks}, got {task!r}")
    value = of_task.set_index("hparam").value
    settings: dict[str, Any] = {"targets": "query,value", "rank": 4}
    for printed, (name, number) in _TABLE11_FIELDS.items():
        settings[name] = number(value[printed])
    return settings


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
    published = _by_targets("lora_table18_gpt2_rank")
    wide = published.pivot_table(
        index=["targets", "rank"], columns="metric", values="value", sort=False
    )
    columns = {}
    for printed, (name, factor) in _TABLE18_METRICS.items():
        columns[name] = factor * wide[printed]
    return pd.DataFrame(columns).reset_index()


TEXT_TABLES = {"e2e": table3, "dart": table13, "webnlg": table14}
"""The table of scores of generated text for a task of ours."""


def scores_by_metric(published: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each model, method and count, and a column for each metric.

    It takes what `table3`, `table13` and `table14` return.
    """
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
    joined = scores
    for dataset, part in published.groupby("dataset", sort=False):
        names = {"value": f"paper {dataset}", "std": f"paper {dataset} std"}
        columns = part[[*on, "value", "std"]].rename(columns=names)
        joined = joined.merge(columns, on=on, how="left")
    return joined


def _spelled(name: str) -> pd.DataFrame:
    published = table(name)
    return published.assign(method=published.method.map(spell_method))


def _by_targets(name: str) -> pd.DataFrame:
    published = table(name)
    targets = published.weight_type.map(TARGETS)
    return published.assign(targets=targets, rank=published.r.astype(int))
