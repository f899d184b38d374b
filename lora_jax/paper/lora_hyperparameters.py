"""How LoRA's models were trained: Tables 9 and 11 by the names of our tasks and flags.

Table 9 is RoBERTa on GLUE, Table 11 GPT-2 on E2E, WebNLG and DART.
"""

from typing import Any

from lora_jax.paper.tables import rows_where, table

# WNLI is not in the paper.
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


def table9_epochs(task: str) -> int:
    """Return Table 9's epochs for RoBERTa-base with LoRA on a GLUE task.

    Raises:
        ValueError: Table 9 does not have the task.
    """
    published = table("lora_table9_roberta_hparams")
    # One row for each model, method, task and hyperparameter.
    # The table has RoBERTa-large and other methods too.
    roberta = rows_where(published, "model", "RoBERTa-base")
    lora = rows_where(roberta, "method", "LoRA")
    epochs = rows_where(lora, "hparam", "epochs")
    matches = rows_where(epochs, "dataset", GLUE.get(task))
    if matches.empty:
        raise ValueError(
            "epochs: expected 1 or more; 0 takes Table 9's, which has "
            f"{', '.join(GLUE)} but not {task!r}"
        )
    return int(matches["value"].iloc[0])


def table11(task: str) -> dict[str, Any]:
    """Return Table 11's hyperparameters for GPT-2 on a task, by the names of our flags.

    `warmup_steps` is in steps, where our flag `warmup` is a share of all steps. The
    rank is 4 on query and value for every task.

    Raises:
        ValueError: the task is none of e2e, webnlg and dart.
    """
    published = table("lora_table11_gpt2_hparams")
    # Printed as E2E, WebNLG and DART.
    names = published["dataset"].str.lower()
    of_task = rows_where(published.assign(task=names), "task", task)
    if of_task.empty:
        tasks = ", ".join(names.unique())
        raise ValueError(f"task: expected one of Table 11, {tasks}, got {task!r}")
    # Printed once for all three: r_q = r_v = 4.
    value = of_task.set_index("hparam").value
    settings: dict[str, Any] = {"targets": "query,value", "rank": 4}
    for printed, (name, number) in _TABLE11_FIELDS.items():
        settings[name] = number(value[printed])
    return settings
