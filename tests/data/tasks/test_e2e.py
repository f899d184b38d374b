"""E2E: from a folder, from the archive and from the hub."""

import zipfile

import datasets
import numpy as np

from lora_jax import data
from lora_jax.data.tasks import e2e
from tests.data.files import message, pairs, shared, sizes, write

MEANING = (
    "name[Blue Spice], eatType[coffee shop], priceRange[more than £30], "
    "customer rating[5 out of 5], familyFriendly[no]"
)
SOURCE = (
    "name : Blue Spice | Type : coffee shop | price : more than £30 | "
    "customer rating : 5 out of 5 | family friendly : no"
)
PAIRS = [(SOURCE, "Go  there."), ("name : B", "Go.")]


def e2e_files(folder):
    """The official files, each with two rows."""
    for name in e2e.FILES.values():
        write(folder / name, f'mr,ref\n"{MEANING}",Go  there. \n"name[B]",Go.\n')
    return folder


def test_meaning_representations_are_written_as_the_authors_do():
    assert e2e.linear(MEANING) == SOURCE


def test_a_folder_is_a_task_with_targets(tmp_path):
    task = data.load("e2e", data_dir=e2e_files(tmp_path))
    assert list(task.splits) == ["train", "validation", "test"]
    assert pairs(task.splits["test"]) == PAIRS
    assert task.generates
    assert task.labels == ()
    assert "rouge_l" in task.metrics
    assert task.splits["train"].label.dtype == np.int32
    assert not task.splits["train"].label.any()
    assert "trainset.csv sha256:" in task.source
    assert str(tmp_path) not in task.source


def test_folder_and_archive_agree(tmp_path):
    folder = e2e_files(tmp_path / "e2e-dataset")
    archive_path = tmp_path / "e2e-dataset.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"e2e-dataset/{file.name}")
    # A folder that holds the archive, and something else.
    write(tmp_path / "archive/unrelated.txt", "")
    (tmp_path / "archive/e2e-dataset.zip").write_bytes(archive_path.read_bytes())
    first = data.load("e2e", data_dir=folder)
    for place in (archive_path, tmp_path / "archive", str(folder)):
        np.testing.assert_equal(data.load("e2e", data_dir=place), first)


def test_misfits_are_told_by_line(tmp_path):
    folder = e2e_files(tmp_path)
    write(folder / "devset.csv", 'mr,ref\n"name[B], food",Go.\nname[B],\n')
    text = message(data.load, "e2e", data_dir=folder)
    assert (
        "devset.csv, line 2: mr: expected attributes such as name[Blue Spice], "
        "food[Thai], got 'name[B], food'"
    ) in text
    assert "devset.csv, line 3: ref: expected some text, got ''" in text
    write(folder / "devset.csv", "MR\nname[B]\n")
    text = message(data.load, "e2e", data_dir=folder)
    assert "devset.csv: expected a column 'ref', got mr" in text


def test_missing_files_are_named(tmp_path):
    folder = e2e_files(tmp_path)
    (folder / "devset.csv").unlink()
    text = message(data.load, "e2e", data_dir=folder, error=FileNotFoundError)
    assert "expected devset.csv, got testset_w_refs.csv, trainset.csv" in text
    nowhere = tmp_path / "no"
    text = message(data.load, "e2e", data_dir=nowhere, error=FileNotFoundError)
    assert "does not exist; expected one with" in text
    text = message(data.load, "e2e", data_dir=folder / "trainset.csv")
    assert "expected a folder or a zip archive with trainset.csv" in text
    assert "got the file trainset.csv" in text


def test_the_hub_has_the_same_rows(monkeypatch):
    calls = {}

    def load_dataset(path, revision, data_files):
        calls.update(revision=revision, files=data_files)
        rows = {
            "meaning_representation": [MEANING, "name[B]"],
            "human_reference": ["Go  there.", "Go."],
        }
        return {split: datasets.Dataset.from_dict(rows) for split in data_files}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = data.load("e2e")
    assert pairs(task.splits["test"]) == PAIRS
    assert task.source == f"tuetschek/e2e_nlg@{e2e.REVISION}"
    # A commit, and files that hold data alone.
    assert len(calls["revision"]) == 40
    assert all(file.endswith(".parquet") for file in calls["files"].values())


def test_without_the_hub_the_error_asks_for_a_folder(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    text = message(data.load, "e2e", error=ConnectionError)
    assert "OSError: no route" in text
    assert "pass data_dir, a folder with trainset.csv" in text
    assert "e2e-dataset.zip" in text


def test_real_e2e_has_its_rows_and_sources():
    task = data.load("e2e", data_dir=shared("e2e"))
    assert sizes(task) == {"train": 42061, "validation": 4672, "test": 4693}
    sources = {}
    for name, examples in task.splits.items():
        sources[name] = len(data.references(examples))
    assert sources == {"train": 4862, "validation": 547, "test": 630}
