"""The k of each training, and a smoke run."""

import pytest
import svd_truncation

from lora_jax.experiment import presets
from lora_jax.experiment.workbench import Workbenches

EXPERIMENT = svd_truncation.EXPERIMENT
BENCHES = Workbenches()


def items(base=presets.SMOKE, **changes):
    options = svd_truncation.Options(**{"rank": 8, **changes})
    return svd_truncation.measurements(options, base, BENCHES)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svd")
    EXPERIMENT.main(["--preset", "smoke", "--out", str(folder)])
    return EXPERIMENT.rows(folder)


def test_each_training_has_the_k_below_its_rank_and_all():
    ks = {"lora": [], "full": []}
    for item in items(ks=(0, 1, 4, 8, 64, 1)):
        ks[item.runs[0].method].append(item.settings["k"])
    assert ks == {"lora": [0, 1, 4, 8], "full": [0, 1, 4, 8, 16]}


def test_another_lora_trains_no_other_full_fine_tuning():
    lora, *_, full = items(rank=8)
    assert lora.runs[0].train.learning_rate == 1e-3
    assert full.runs[0].train.learning_rate == 1e-4
    other = items(presets.SMOKE.changed(targets="query"), rank=4)[-1]
    assert other.key() == full.key()


def test_a_negative_k_is_refused():
    with pytest.raises(ValueError, match="ks: expected whole numbers >= 0, got -1, -2"):
        items(ks=(-1, 0, -2))


def test_the_method_is_no_option(tmp_path):
    words = ["--preset", "smoke", "--method", "full", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        EXPERIMENT.main(words)
    assert not list(tmp_path.iterdir())


def test_all_directions_are_the_training_itself(rows):
    full_rows = []
    for row in rows:
        if row["config"]["k"] == row["config"].get("rank", 16):
            full_rows.append(row)
    assert len(rows) == 5 + 5
    assert len(full_rows) == 2
    for row in full_rows:
        assert row["metrics"]["test/accuracy"] == row["trained"]["test/accuracy"]
        assert row["metrics"]["delta/relative_error"] == 0
        assert row["metrics"]["delta/energy"] == pytest.approx(1)


def test_parameters_are_those_of_the_factors(rows):
    sizes = {}
    for row in rows:
        sizes[row["config"]["method"], row["config"]["k"]] = row["parameters"]
    assert sizes["lora", 2] == 2 * 2 * 2 * (16 + 16)
    assert sizes["full", 2] == 2 * 2 * (4 * (16 + 16) + 2 * (16 + 32))
    assert sizes["full", 0] == 0


def test_a_row_without_directions_has_no_figure(rows):
    nothing = [row for row in rows if row["config"]["k"] == 0]
    assert svd_truncation.show(nothing).figures == {}
