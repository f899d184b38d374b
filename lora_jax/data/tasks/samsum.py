"""SAMSum (Gliwa et al. 2019, arXiv:1911.12237): messenger dialogues to summaries.

LoRA's Table 4. A line of a dialogue is "Speaker: words".
"""

from pathlib import Path

from lora_jax.data.official_files import (
    Field,
    find_files,
    read_json_objects,
    task_folder,
)
from lora_jax.data.read_bytes import describe_files
from lora_jax.data.table import Table
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import generation_task, rows_of_targets

FILES = {"train": "train.json", "validation": "val.json", "test": "test.json"}
EXPECTED = f"{', '.join(FILES.values())} (corpus.7z beside arXiv:1911.12237)"
# Of LoRA's Table 4.
METRICS = ("rouge_1", "rouge_2", "rouge_l")


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return 14,732 / 818 / 819 dialogues, less those that are blank.

    They are read from the official JSON files in `data_dir`.

    Raises:
        ValueError: there is no `data_dir`, or entries do not fit; it names them.
        FileNotFoundError: files are missing.
    """
    # The official archive unpacks into a folder `corpus`.
    folder = task_folder("samsum", data_dir, EXPECTED, folders=("corpus",))
    paths = find_files("samsum", folder, FILES)
    tables = {}
    for split, path in paths.items():
        tables[split] = _read(path)
    origin = describe_files(paths.values())
    return generation_task("samsum", METRICS, tables, origin)


def _read(path: Path) -> Table:
    text = Field("text", _is_text)
    table = read_json_objects(path, {"dialogue": text, "summary": text})
    sources = []
    for dialogue in table.columns["dialogue"]:
        # Lines of the official files end in "\r\n".
        sources.append(dialogue.replace("\r\n", "\n"))
    # One summary a dialogue.
    targets = [[summary] for summary in table.columns["summary"]]
    return rows_of_targets(table, sources, targets)


def _is_text(value: object) -> bool:
    # Maybe empty: rows with a blank side are left out.
    return isinstance(value, str)
