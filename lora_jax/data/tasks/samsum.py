"""SAMSum (Gliwa et al. 2019, arXiv:1911.12237): messenger dialogues and their summaries. LoRA's Table 4."""

from pathlib import Path

from lora_jax.data import text_pairs
from lora_jax.data.read_table import Table, provenance
from lora_jax.data.task import Task, refuse_split_seed

FILES = {"train": "train.json", "validation": "val.json", "test": "test.json"}
METRICS = ("rouge_1", "rouge_2", "rouge_l")


def load(*, data_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """14,732 / 818 / 819 dialogues, less those that are blank, from the official JSON files in `data_dir`.

    A line is "Speaker: words", lines end in "\\n". Raises ValueError without `data_dir` or naming the entries that do not
    fit, FileNotFoundError when files are missing.
    """
    refuse_split_seed("samsum", split_seed)
    expected = ", ".join(FILES.values()) + " (corpus.7z beside arXiv:1911.12237)"
    paths = text_pairs.find(
        "samsum",
        text_pairs.home("samsum", data_dir, expected, folders=("corpus",)),
        FILES,
    )
    tables = {split: _table(path) for split, path in paths.items()}
    return text_pairs.task(
        "samsum", METRICS, tables, ", ".join(map(provenance, paths.values()))
    )


def _table(path: Path) -> Table:
    is_text = ("text", lambda value: isinstance(value, str))
    table = text_pairs.entries(path, {"dialogue": is_text, "summary": is_text})
    dialogues = [
        dialogue.replace("\r\n", "\n") for dialogue in table.columns["dialogue"]
    ]
    return text_pairs.pairs(
        table, dialogues, [[summary] for summary in table.columns["summary"]]
    )
