"""Table 7's numbers against numpy's SVD of what was kept, and a smoke run."""

import amplification
import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_jax.experiment.config import from_row
from lora_jax.experiment.identity import key
from lora_jax.experiment.workbench import Workbenches
from lora_jax.results import groups
from lora_jax.results.pages import amplification as page

EXPERIMENT = amplification.EXPERIMENT
BENCHES = Workbenches()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The smoke run: r = 2 and 4."""
    folder = tmp_path_factory.mktemp("amplification")
    EXPERIMENT.main(["--preset", "smoke", "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def rows(out):
    return EXPERIMENT.rows(out)


def factors(out, config):
    """A [L, i, r], B [L, r, o] without alpha/r, and W [L, i, o] of a row, in float64."""
    run = from_row(config)
    stored = load_file(out / "adapters" / f"{key(run.flat())}.safetensors")
    rank, path = config["rank"], config["matrix"]
    a = stored[f"{path}/lora_a"].astype(np.float64)[..., :rank]
    b = stored[f"{path}/lora_b"].astype(np.float64)[:, :rank]
    attention = BENCHES.bench(run).model.blocks.attention
    layer = getattr(attention, path.rpartition("/")[2])
    return a, b, np.asarray(layer.kernel[...], np.float64)


def table_of(rows):
    (group,) = groups(rows, axes=("rank", "matrix"))
    return page.table7(group)


def test_the_numbers_are_those_of_numpys_svd(out, rows):
    assert len(rows) == 4
    for row in rows:
        a, b, kernels = factors(out, row["config"])
        rank = row["config"]["rank"]
        for layer, w in enumerate(kernels):
            delta = 16 / rank * a[layer] @ b[layer]
            u, _, vh = np.linalg.svd(delta)
            inside = np.linalg.norm(u[:, :rank].T @ w @ vh[:rank].T)
            expected = {
                "delta": np.linalg.norm(delta),
                "w": np.linalg.norm(w),
                "of_delta": inside,
                "of_w": np.linalg.norm(np.linalg.svd(w)[1][:rank]),
                "factor": np.linalg.norm(delta) / inside,
            }
            metrics = {}
            for name in page.COLUMNS:
                metrics[name] = row["metrics"][f"layer{layer + 1}/{name}"]
            assert 0 < metrics.pop("of_random") < metrics["w"]
            assert metrics == pytest.approx(expected, rel=1e-3)


def test_figure_8_compares_the_input_directions_of_w_and_a(out, rows):
    a, _, kernels = factors(out, rows[0]["config"])
    w, u = np.linalg.svd(kernels[0])[0], np.linalg.svd(a[0])[0]
    phi = np.array(rows[0]["phi"])
    top = (w[:, 0] @ u[:, 0]) ** 2
    np.testing.assert_allclose(phi[0, 0, 0], top, atol=2e-4)
    two = np.linalg.norm(w[:, :2].T @ u[:, :2]) ** 2 / 2
    np.testing.assert_allclose(phi[0, 1, 1], two, atol=2e-4)
    assert phi.shape == np.shape(rows[0]["phi_random"]) == (2, 2, 2)


def test_the_factor_without_alpha_over_r_is_that_of_b_times_a(rows):
    table = table_of(rows)
    assert len(table) == 8
    assert set(table.matrix) == {"Wq", "Wv"}
    np.testing.assert_allclose(table.factor / table[page.BARE], 16 / table.r)


def test_the_order_of_rows_changes_nothing(rows):
    report = amplification.show(rows)
    assert amplification.show(rows[::-1]).data.equals(report.data)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--method", "bitfit", "--ranks", "4"],
            "method: expected low-rank adapters, as lora's, got bitfit",
        ),
        (["--ranks", "17"], "rank: expected 1 <= rank <= 16"),
        (["--ranks"], "expected at least one value"),
        (
            ["--targets", "query|pooler"],
            "matrices that every block has, got also pooler",
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_trained(flags, text, tmp_path):
    with pytest.raises(ValueError) as error:
        EXPERIMENT.main(["--preset", "smoke", "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())
