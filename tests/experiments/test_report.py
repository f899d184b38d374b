"""The index: every experiment that has rows, its verdicts, and what it needs."""

import shutil
from collections import Counter

import pytest
import rank_sweep
import report
import trainable_params

from lora_jax.experiment.experiment import reference_folder
from lora_jax.results import files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reference rows of two experiments."""
    path = tmp_path_factory.mktemp("rows")
    for name in ("trainable_params", "rank_sweep"):
        shutil.copy(reference_folder() / f"{name}.jsonl", path)
    return path


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(files, "png", lambda figure: b"")


def test_it_has_every_experiment_with_rows_and_counts_its_verdicts(folder):
    report.main(["--out", str(folder)])
    page = (folder / "index.md").read_text()
    assert "[rank_sweep](./rank_sweep/README.md)" in page
    assert "[trainable_params](./trainable_params/README.md)" in page
    assert "throughput" not in page
    counts = Counter()
    for script in (trainable_params, rank_sweep):
        rows = script.EXPERIMENT.rows(folder)
        counts.update(claim.verdict for claim in script.show(rows).claims)
    for verdict, count in counts.items():
        assert f"{count} {verdict}" in page


def test_it_is_drawn_from_rows_alone(folder):
    report.main(["--out", str(folder)])
    page = (folder / "index.md").read_bytes()
    shutil.rmtree(folder / "rank_sweep")
    report.main(["--out", str(folder)])
    assert (folder / "index.md").read_bytes() == page
    assert (folder / "rank_sweep" / "README.md").exists()


def test_a_folder_without_rows_is_an_error(tmp_path):
    message = r"--out: expected a folder with rows of an experiment \(\*.jsonl\), got"
    with pytest.raises(ValueError, match=message):
        report.main(["--out", str(tmp_path)])
