"""The E2E NLG Challenge (Novikova et al. 2017, arXiv:1706.09254).

Attributes of a restaurant become a sentence or two. LoRA's Table 3. Sources are written
as in the LoRA authors' NLG examples, "name : Blue Spice | Type : pub | price : cheap |
family friendly : no". Their targets are split at punctuation ("centre ."); ours are as
published.
"""

import re
from pathlib import Path

from lora_jax import download
from lora_jax.data.examples import (
    is_nonblank_text,
    named_columns,
    require_columns,
)
from lora_jax.data.official_files import find_files, task_folder
from lora_jax.data.read_bytes import describe_files
from lora_jax.data.read_table import read
from lora_jax.data.table import Table, raise_problems
from lora_jax.data.task import Task
from lora_jax.data.text_pairs import (
    DATA_TO_TEXT_METRICS,
    generation_task,
    rows_of_targets,
)

# The hub's own conversion of the official files to Parquet: no code has to be run.
HUB = "tuetschek/e2e_nlg"
REVISION = "5061e4307d2e553f9b51ccb73998d7039fe6ed90"

ARCHIVE = "e2e-dataset.zip"
FILES = {
    "train": "trainset.csv",
    "validation": "devset.csv",
    "test": "testset_w_refs.csv",
}
EXPECTED = f"{', '.join(FILES.values())}, or {ARCHIVE}"

# An attribute's name in the files, then as the LoRA authors write it.
NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
ATTRIBUTE = r"([^\[\],]+)\[([^\[\]]+)\]"


def load(*, data_dir: str | Path | None = None) -> Task:
    """Return the task from `data_dir`, or from the hub at a pinned revision.

    It has 42,061 / 4,672 / 4,693 rows of 4,862 / 547 / 630 sources. `data_dir` is the
    archive e2e-dataset.zip, or a folder that has it or its files.

    Raises:
        ConnectionError: the hub cannot be reached.
        FileNotFoundError: files are missing.
        ValueError: rows do not fit; it names them.
    """
    if data_dir is None:
        tables, origin = _from_hub()
    else:
        tables, origin = _from_folder(Path(data_dir).expanduser())
    _check_rows(tables)
    pairs = {split: _pairs(table) for split, table in tables.items()}
    return generation_task("e2e", DATA_TO_TEXT_METRICS, pairs, origin)


def linear(meaning: str) -> str:
    """Return a meaning representation in a line.

    "name[Blue Spice], eatType[pub]" becomes "name : Blue Spice | Type : pub".
    """
    attributes = []
    for name, value in re.findall(ATTRIBUTE, meaning):
        title = NAMES.get(name.strip(), name.strip())
        # With spaces around the colon, as around the bar.
        attributes.append(f"{title} : {value}")
    return " | ".join(attributes)


def _check_rows(tables: dict[str, Table]) -> None:
    expected = "attributes such as name[Blue Spice], food[Thai]"
    # Meanings of all splits, then targets of all splits.
    problems = []
    for table in tables.values():
        problems += table.misfits("mr", _is_meaning, expected)
    for table in tables.values():
        problems += table.misfits("ref", is_nonblank_text, "some text")
    raise_problems(problems)


def _is_meaning(value: object) -> bool:
    if not isinstance(value, str):
        return False
    # Attributes separated by commas, and nothing between them.
    pattern = f"{ATTRIBUTE}(,{ATTRIBUTE})*"
    return re.fullmatch(pattern, value.strip()) is not None


def _pairs(table: Table) -> Table:
    meanings = table.columns["mr"]
    sources = [linear(meaning) for meaning in meanings]
    # A row of the files has one target; equal sources meet in `references`.
    targets = [[target] for target in table.columns["ref"]]
    return rows_of_targets(table, sources, targets)


def _from_folder(root: Path) -> tuple[dict[str, Table], str]:
    # The archive itself, a folder with it, or a folder with what it holds.
    archive = root / ARCHIVE
    place = archive if archive.is_file() else root
    folder = task_folder("e2e", place, EXPECTED, folders=("e2e-dataset",))
    paths = find_files("e2e", folder, FILES)
    tables = {}
    for split, path in paths.items():
        tables[split] = named_columns(read(path), ("mr", "ref"))
    require_columns(tables.values(), ("mr", "ref"))
    return tables, describe_files(paths.values())


def _from_hub() -> tuple[dict[str, Table], str]:
    download.use_cache_if_hub_is_away()
    # Imported here because only data from the hub needs it, and it takes 0.5 s.
    import datasets

    files = {split: f"default/{split}/0000.parquet" for split in FILES}
    try:
        splits = datasets.load_dataset(HUB, revision=REVISION, data_files=files)
    # The client lets its HTTP library's own errors through, without a common base.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConnectionError(
            f"e2e could not be loaded from the hub ({HUB}): {reason}. Without network, "
            f"pass data_dir, a folder with {EXPECTED} "
            "(github.com/tuetschek/e2e-dataset)"
        ) from None
    tables = {}
    for split in FILES:
        rows = splits[split]
        # The hub's names of the columns, then those of the official files.
        columns = {
            "mr": rows["meaning_representation"][:],
            "ref": rows["human_reference"][:],
        }
        numbers = range(1, len(rows) + 1)
        tables[split] = Table(f"{HUB} {split}", "row", numbers, columns)
    return tables, f"{HUB}@{REVISION}"
