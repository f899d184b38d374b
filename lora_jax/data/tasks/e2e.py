"""The E2E NLG Challenge (Novikova et al. 2017, arXiv:1706.09254): attributes of a restaurant into a sentence or two.

LoRA's Table 3. Sources are written as in the LoRA authors' NLG examples, "name : Blue Spice | Type : pub | price : cheap |
family friendly : no"; their targets are split at punctuation ("centre ."), these are as published.
"""

import re
from pathlib import Path

from lora_jax.data import text_pairs
from lora_jax.data.examples import require
from lora_jax.data.read_table import Table, provenance, read, refuse
from lora_jax.data.task import Task, refuse_split_seed

# The hub's own conversion to Parquet of the official files: nothing of it has to be run.
HUB, REVISION = "tuetschek/e2e_nlg", "5061e4307d2e553f9b51ccb73998d7039fe6ed90"
ARCHIVE = "e2e-dataset.zip"
FILES = {
    "train": "trainset.csv",
    "validation": "devset.csv",
    "test": "testset_w_refs.csv",
}
EXPECTED = f"{', '.join(FILES.values())}, or {ARCHIVE}"
NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
ATTRIBUTE = r"([^\[\],]+)\[([^\[\]]+)\]"


def load(*, data_dir: str | Path | None = None, split_seed: int = 0) -> Task:
    """42,061 / 4,672 / 4,693 rows of 4,862 / 547 / 630 sources, from `data_dir` or from the hub at a pinned revision.

    `data_dir` is the archive e2e-dataset.zip, or a folder that has it or its files. Raises ConnectionError when the hub
    cannot be reached, FileNotFoundError when files are missing, and ValueError naming the rows that do not fit.
    """
    refuse_split_seed("e2e", split_seed)
    tables, origin = _hub() if data_dir is None else _local(Path(data_dir).expanduser())
    expected = "attributes such as name[Blue Spice], food[Thai]"
    problems = [
        line
        for table in tables.values()
        for line in table.misfits("mr", _is_mr, expected)
    ]
    refuse(
        problems
        + [
            line
            for table in tables.values()
            for line in table.misfits("ref", _is_text, "some text")
        ]
    )
    lines = {
        split: text_pairs.pairs(
            table,
            map(linear, table.columns["mr"]),
            [[ref] for ref in table.columns["ref"]],
        )
        for split, table in tables.items()
    }
    return text_pairs.task("e2e", text_pairs.DATA_TO_TEXT, lines, origin)


def linear(mr: str) -> str:
    """A meaning representation in a line: "name[Blue Spice], eatType[pub]" is "name : Blue Spice | Type : pub"."""
    return " | ".join(
        f"{NAMES.get(name.strip(), name.strip())} : {value}"
        for name, value in re.findall(ATTRIBUTE, mr)
    )


def _is_mr(value: object) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(f"{ATTRIBUTE}(,{ATTRIBUTE})*", value.strip()) is not None
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _local(root: Path) -> tuple[dict[str, Table], str]:
    archive = root / ARCHIVE
    place = text_pairs.home(
        "e2e",
        archive if archive.is_file() else root,
        EXPECTED,
        folders=("e2e-dataset",),
    )
    paths = text_pairs.find("e2e", place, FILES)
    tables = {split: read(path) for split, path in paths.items()}
    require(tables.values(), ("mr", "ref"))
    return tables, ", ".join(map(provenance, paths.values()))


def _hub() -> tuple[dict[str, Table], str]:
    import datasets  # here, not above: only data from the hub needs it, and it takes 0.5 s

    try:
        files = {split: f"default/{split}/0000.parquet" for split in FILES}
        splits = datasets.load_dataset(HUB, revision=REVISION, data_files=files)
    except Exception as error:  # the client lets its HTTP library's own errors through, which have no common base
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConnectionError(
            f"e2e could not be loaded from the hub ({HUB}): {reason}. Without network, pass data_dir, a folder with "
            f"{EXPECTED} (github.com/tuetschek/e2e-dataset)"
        ) from None
    tables = {
        split: Table(
            f"{HUB} {split}",
            "row",
            range(1, len(rows) + 1),
            {
                "mr": rows["meaning_representation"][:],
                "ref": rows["human_reference"][:],
            },
        )
        for split in FILES
        for rows in [splits[split]]
    }
    return tables, f"{HUB}@{REVISION}"
