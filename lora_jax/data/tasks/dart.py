"""DART 1.1.1 (Nan et al. 2021, arXiv:2007.02871): triples, mostly of tables, into sentences. LoRA's Table 13.

Sources are written as in the LoRA authors' NLG examples: "Mars Hill College : joined : 1973 | ...", relations in lower case.
"""

from pathlib import Path
from typing import Any

from lora_jax.data import text_pairs
from lora_jax.data.read_table import Table, provenance
from lora_jax.data.task import Task, refuse_split_seed

FILES = {
    split: f"dart-v1.1.1-full-{name}.json"
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
}
METRICS = ("bleu", "meteor", "ter")  # of LoRA's Table 13


def load(*, data_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """Train, validation and test from the official JSON files in `data_dir`.

    Raises ValueError without `data_dir` or naming the entries that do not fit, FileNotFoundError when files are missing.
    """
    refuse_split_seed("dart", split_seed)
    place = text_pairs.home(
        "dart",
        data_dir,
        ", ".join(FILES.values()) + " (github.com/Yale-LILY/dart)",
        folders=("v1.1.1",),
    )
    paths = text_pairs.find("dart", place, FILES)
    tables = {split: _table(path) for split, path in paths.items()}
    return text_pairs.task(
        "dart", METRICS, tables, ", ".join(map(provenance, paths.values()))
    )


def _table(path: Path) -> Table:
    table = text_pairs.entries(
        path,
        {
            "tripleset": ("a list of [subject, relation, object]", _are_triples),
            "annotations": ("a list of {'text': ...}", _are_texts),
        },
    )
    sources = [
        text_pairs.triples(
            (subject, relation.lower(), what) for subject, relation, what in given
        )
        for given in table.columns["tripleset"]
    ]
    return text_pairs.pairs(
        table,
        sources,
        [[note["text"] for note in given] for given in table.columns["annotations"]],
    )


def _are_triples(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(t, list) and len(t) == 3 and all(isinstance(part, str) for part in t)
        for t in value
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(note, dict) and isinstance(note.get("text"), str) for note in value
    )
