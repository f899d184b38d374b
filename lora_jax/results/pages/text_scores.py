"""What LoRA publishes of generated text: tables for a page, and scores for its figure.

Tables 3, 13 and 14 are of GPT-2 on E2E, DART and WebNLG, and Table 4 of GPT-3.
"""

from lora_jax import paper
from lora_jax.results import method_tables
from lora_jax.results.report import Block

# The tables of generated text by task, as the paper numbers them. Other data has none.
TABLE_NUMBERS = {"e2e": 3, "dart": 13, "webnlg": 14}
# The paper's medium model is the nearer one to ours.
MODEL = "GPT-2 M"


def published(task: str) -> list[Block]:
    """Return the paper's table for a task; nothing for other data."""
    if task not in TABLE_NUMBERS:
        return []
    scores = paper.lora.scores_by_metric(paper.lora.TEXT_TABLES[task]())
    title = f"The paper's Table {TABLE_NUMBERS[task]}"
    return method_tables.in_percent(scores, title)


def bleu(task: str, metric: str) -> dict[str, float]:
    """Return the paper's BLEU of GPT-2 medium, in %, by our names of methods.

    There is none of other data, nor beside another metric.
    """
    if task not in TABLE_NUMBERS or metric != "bleu":
        return {}
    scores = paper.lora.scores_by_metric(paper.lora.TEXT_TABLES[task]())
    medium = scores[scores["model"] == MODEL]
    # WebNLG's categories are reported apart and together.
    column = "BLEU all" if task == "webnlg" else "BLEU"
    return method_tables.best_by_method(medium, column)


def gpt3(task: str, _metric: str) -> dict[str, float]:
    """Return GPT-3's first score of a task, in %, by our names of methods."""
    columns = paper.lora.TABLE4_COLUMNS.get(task)
    if columns is None:
        return {}
    return method_tables.best_by_method(paper.lora.table4(), columns[0])
