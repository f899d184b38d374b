"""Table 7's numbers against numpy's SVD of what was kept, and what is concluded."""

import amplification
import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_jax import paper
from lora_jax.experiment.config import from_row, key
from lora_jax.experiment.workbench import Workbenches
from lora_jax.results import claims, groups

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
    return amplification.table7(group)


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
            for name in amplification.COLUMNS:
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


@pytest.mark.parametrize(
    ("width", "lines"), [(12288, (400, 1273)), (384, (12, 40)), (16, (1, 2))]
)
def test_the_range_of_figure_8_grows_with_the_model(width, lines):
    assert paper.lora.figure8_range(width) == lines


def test_the_factor_without_alpha_over_r_is_that_of_b_times_a(rows):
    table = table_of(rows)
    assert len(table) == 8
    assert set(table.matrix) == {"Wq", "Wv"}
    np.testing.assert_allclose(table.factor / table[amplification.BARE], 16 / table.r)


def test_rank_stabilized_alpha_is_over_the_root_of_r(rows):
    config = {**rows[0]["config"], "rank_stabilized": True, "rank": 4}
    table = table_of([{**rows[0], "config": config}])
    np.testing.assert_allclose(table.factor / table[amplification.BARE], 16 / 2)


def test_the_papers_table_is_as_printed():
    table = amplification.published()
    assert list(table.r) == [4, 64]
    assert table[amplification.BARE].isna().all()
    columns = list(amplification.COLUMNS.values())
    assert list(table.loc[0, columns]) == [0.32, 21.67, 0.02, 6.91, 61.95, 21.5]


def claims_of(table, highest):
    """The claims of the paper's own table, and of one map."""
    row = {"dimension": 16, "phi": [[[highest]]]}
    result = {}
    for claim in amplification.table7_claims(table, [row]):
        result[claim.statement] = (claim.evidence, claim.verdict)
    return result


@pytest.fixture
def published():
    table = amplification.published()
    return table.assign(layer=1)


def test_the_paper_passes_the_tests_it_is_put_to(published):
    held = list(claims_of(published, 0.2027).values())
    evidence = ["2 of 2"] * 2 + ["1 of 1"] * 4
    assert held[:6] == [(text, claims.REPRODUCED) for text in evidence]


def test_an_effect_that_is_not_there_is_not_reproduced(published):
    published["W in ΔW's"] = [0.03, 30.0]
    published["factor"] = [0.9, 0.5]
    published[amplification.BARE] = [5.0, 2.0]
    held = list(claims_of(published, 0.9).values())
    evidence = ["1 of 2"] * 2 + ["0 of 1"] * 4
    assert held[:6] == [(text, claims.NOT_REPRODUCED) for text in evidence]
    assert held[6] == ("1 of 1", claims.REPRODUCED)  # without α/r


def test_one_rank_alone_says_nothing_about_ranks(published):
    statements = claims_of(published[:1], 0.2)
    assert statements["ΔW amplifies (factor > 1) at the lowest r"][0] == "1 of 1"
    assert not [text for text in statements if "more than twice as much as" in text]


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
