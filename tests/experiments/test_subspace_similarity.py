"""φ against numpy's SVD of what was kept, and the page of a smoke run."""

import numpy as np
import pytest
import rank_sweep
import subspace_similarity
from safetensors.numpy import load_file

from lora_jax.experiment import presets, schedule
from lora_jax.experiment.config import from_row
from lora_jax.experiment.identity import key
from lora_jax.experiment.workbench import Workbenches
from lora_jax.results import files

EXPERIMENT = subspace_similarity.EXPERIMENT
SMOKE = ["--preset", "smoke"]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    """A page has four pictures of many maps, which take seconds and are not read here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "png", lambda figure: b"")
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The smoke run: r = 2 against 4, seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("subspace_similarity")
    EXPERIMENT.main([*SMOKE, "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def rows(out):
    return EXPERIMENT.rows(out)


def similarity(u, v):
    """Equation 4, cell by cell, from columns of directions."""
    phi = np.zeros((u.shape[1], v.shape[1]))
    for i in range(1, 1 + u.shape[1]):
        for j in range(1, 1 + v.shape[1]):
            shared = np.linalg.norm(u[:, :i].T @ v[:, :j]) ** 2
            phi[i - 1, j - 1] = shared / min(i, j)
    return phi


def kept(out, config, name):
    """What a run has learned, by the config of the run."""
    file = out / "adapters" / f"{key(from_row(config).flat())}.safetensors"
    return load_file(file)[name].astype(np.float64)


def directions(factor):
    """The right singular vectors of r x d, as columns."""
    return np.linalg.svd(factor)[2][: len(factor)].T


def test_there_is_a_row_for_each_comparison_and_one_of_random_matrices(rows):
    compared = []
    for row in rows:
        config = row["config"]
        compared.append((config["comparison"], config["matrix"].rpartition("/")[2]))
    assert compared == [
        ("rank", "query"),
        ("rank", "value"),
        ("seed", "query"),
        ("seed", "value"),
        ("random", "query"),
    ]
    for row in rows:
        left, right = row["config"]["left"], row["config"]["right"]
        if row["config"]["comparison"] == "rank":
            assert (left["rank"], right["rank"]) == (2, 4)
        else:
            assert (left["seed"], right["seed"]) == (0, 1)


def test_phi_is_that_of_numpys_singular_vectors_of_a(out, rows):
    for row in rows[:4]:
        config = row["config"]
        factors = []
        for name in ("left", "right"):
            a = kept(out, config[name], f"{config['matrix']}/lora_a")
            factors.append(a[..., : config[name]["rank"]])
        for layer, phi in enumerate(row["phi"]):
            # The paper's A is r x d.
            u, v = (directions(a[layer].T) for a in factors)
            np.testing.assert_allclose(phi, similarity(u, v), atol=2e-4)
            top = row["metrics"][f"layer{layer + 1}/phi_1_1"]
            assert top == pytest.approx((u[:, 0] @ v[:, 0]) ** 2, abs=1e-4)


def test_the_output_side_takes_b_and_trains_nothing_anew(out, tmp_path, monkeypatch):
    def fail(*_, **__):
        pytest.fail("trained a run that was kept")

    (tmp_path / "adapters").symlink_to(out / "adapters")
    monkeypatch.setattr(schedule, "train_run", fail)
    EXPERIMENT.main([*SMOKE, "--side", "output", "--out", str(tmp_path)])
    row = EXPERIMENT.rows(tmp_path)[0]
    config = row["config"]
    factors = []
    for name in ("left", "right"):
        b = kept(out, config[name], f"{config['matrix']}/lora_b")
        factors.append(directions(b[1, : config[name]["rank"]]))
    np.testing.assert_allclose(row["phi"][1], similarity(*factors), atol=2e-4)
    page = (tmp_path / "subspace_similarity" / "README.md").read_text()
    assert "output side" in page


def test_metrics_have_the_means_over_layers_and_the_expected_value(rows):
    values = np.array(rows[0]["phi"])
    metrics = rows[0]["metrics"]
    mean = values[:, 1, 1].mean()
    assert metrics["mean/phi_2_2"] == pytest.approx(mean, abs=1e-4)
    assert metrics["expected/phi_2_2"] == 2 / 16
    assert rows[0]["dimension"] == 16


def test_the_trainings_are_those_of_the_rank_sweep():
    options, base = subspace_similarity.PRESETS["smoke"]
    ours = set()
    for item in subspace_similarity.measurements(options, base, Workbenches()):
        ours.update(item.run_keys())
    sweep = rank_sweep.Options(ranks=(2, 4), seeds=(0, 1))
    theirs = set()
    for item in rank_sweep.measurements(sweep, presets.SMOKE, Workbenches()):
        theirs.update(item.run_keys())
    assert len(ours) == 3
    assert ours <= theirs


def test_the_order_of_rows_changes_nothing(rows):
    report = subspace_similarity.show(rows)
    again = subspace_similarity.show(rows[::-1])
    assert again.data.equals(report.data)
    assert again.claims == report.claims
    assert set(report.figures) == {"", "layers", "seeds", "seeds_layers"}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--ranks", "4", "4"],
            "expected ranks LOW HIGH and two different seeds, got 4 4 and 0 1",
        ),
        (["--seeds", "1", "1"], "two different seeds, got 2 4 and 1 1"),
        (["--method", "bitfit"], "expected low-rank adapters, as lora's, got bitfit"),
        (
            ["--targets", "mlp/up,mlp/down"],
            "one width on the input side, got {'blocks/mlp/down': 32, 'blocks/mlp/up'",
        ),
        (["--targets", "query|pooler"], "matrices that every block has, got also"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_trained(flags, text, tmp_path):
    with pytest.raises(ValueError) as error:
        EXPERIMENT.main([*SMOKE, "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())
