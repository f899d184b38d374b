"""Amplification: Table 7's numbers against numpy's SVD of what was kept, the paper's beside them, what is concluded."""

from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_jax import results
from lora_jax.experiment import run, schedule

experiment = import_module("amplification")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The smoke run: r = 2 and 4."""
    folder = tmp_path_factory.mktemp("smoke")
    experiment.main(["--preset", "smoke", "--out", str(folder)])
    return folder


def rows(out):
    return results.read(out / "amplification.jsonl")


def factors(out, config):
    """A [L, i, r], B [L, r, o] without alpha/r, and W [L, i, o] of a row, in float64."""
    cell = {name: value for name, value in config.items() if name != "matrix"}
    stored = load_file(out / "adapters" / f"{results.key(cell)}.safetensors")
    a, b = (
        stored[f"{config['matrix']}/lora_{name}"].astype(np.float64) for name in "ab"
    )
    kernel = getattr(
        run.bench(cell).model.blocks.attention, config["matrix"].split("/")[-1]
    ).kernel[...]
    return (
        a[..., : config["rank"]],
        b[:, : config["rank"]],
        np.asarray(kernel, np.float64),
    )


def test_the_numbers_are_those_of_numpys_svd(out):
    assert len(rows(out)) == 4
    for row in rows(out):
        a, b, kernels = factors(out, row["config"])
        r = row["config"]["rank"]
        for layer, w in enumerate(kernels):
            delta = 16 / r * a[layer] @ b[layer]
            u, _, vh = np.linalg.svd(delta)
            found = {
                name: row["metrics"][f"layer{layer + 1}/{name}"]
                for name in experiment.COLUMNS
            }
            wanted = {
                "delta": np.linalg.norm(delta),
                "w": np.linalg.norm(w),
                "of_delta": np.linalg.norm(u[:, :r].T @ w @ vh[:r].T),
                "of_w": np.linalg.norm(np.linalg.svd(w)[1][:r]),
            }
            wanted["factor"] = wanted["delta"] / wanted["of_delta"]
            assert {name: found[name] for name in wanted} == pytest.approx(
                wanted, rel=1e-3
            )
            assert 0 < found["of_random"] < found["w"]


def test_figure_8_compares_the_input_directions_of_w_and_a(out):
    row = rows(out)[0]
    a, _, kernels = factors(out, row["config"])
    w, u = np.linalg.svd(kernels[0])[0], np.linalg.svd(a[0])[0]
    np.testing.assert_allclose(row["phi"][0][0][0], (w[:, 0] @ u[:, 0]) ** 2, atol=2e-4)
    np.testing.assert_allclose(
        row["phi"][0][1][1], np.linalg.norm(w[:, :2].T @ u[:, :2]) ** 2 / 2, atol=2e-4
    )
    assert np.shape(row["phi"]) == np.shape(row["phi_random"]) == (2, 2, 2)


def test_the_range_of_figure_8_grows_with_the_model():
    assert [experiment.shown(d) for d in (12288, 384, 16)] == [
        (400, 1273),
        (12, 40),
        (1, 2),
    ]


def test_the_factor_without_alpha_over_r_is_that_of_b_times_a(out):
    table = experiment.table7(rows(out))
    assert len(table) == 8 and set(table.matrix) == {"Wq", "Wv"}
    np.testing.assert_allclose(table.factor / table[experiment.BARE], 16 / table.r)


def test_rank_stabilized_alpha_is_over_the_root_of_r(out):
    row = rows(out)[0]
    row["config"] |= {"rank_stabilized": True, "rank": 4}
    table = experiment.table7([row])
    np.testing.assert_allclose(table.factor / table[experiment.BARE], 16 / 2)


def test_the_papers_table_is_as_printed():
    table = experiment.published()
    assert list(table.r) == [4, 64] and table[experiment.BARE].isna().all()
    assert list(table.loc[0, [title for title, *_ in experiment.COLUMNS.values()]]) == [
        0.32,
        21.67,
        0.02,
        6.91,
        61.95,
        21.5,
    ]
    assert {
        name: at.shape for name, at in experiment.published_maps().items()
    } == dict.fromkeys(("r = 4", "r = 8", "r = 64", "random"), (828, 4))


def test_the_paper_passes_the_tests_it_is_put_to():
    said = [held for *_, held in experiment.effects(experiment.published(), [0.2027])]
    assert said == ["there, 2 of 2"] * 2 + ["there, 1 of 1"] * 3 + ["", "there, 1 of 1"]


def test_an_effect_that_is_not_there_is_said_to_be_absent():
    table = experiment.published()
    table["W in ΔW's"], table["factor"], table[experiment.BARE] = (
        [0.03, 30.0],
        [0.9, 0.5],
        [5.0, 2.0],
    )
    said = [held for *_, held in experiment.effects(table, [0.9])]
    assert said == ["absent, 1 of 2"] * 2 + ["absent, 0 of 1"] * 3 + [
        "there, 1 of 1",
        "absent, 0 of 1",
    ]


def test_one_rank_alone_says_nothing_about_ranks():
    said = {
        effect: held
        for effect, _, held in experiment.effects(experiment.published()[:1], [0.2])
    }
    assert (
        said["the lowest r amplifies more"] == ""
        and said["ΔW amplifies at the lowest r"] == "there, 1 of 1"
    )


def test_the_same_is_drawn_from_rows_in_any_order(out, tmp_path):
    experiment.render(rows(out)[::-1], tmp_path)
    for suffix in (".md", ".csv", ".png"):
        assert (tmp_path / f"amplification{suffix}").read_bytes() == (
            out / f"amplification{suffix}"
        ).read_bytes()


def test_what_is_measured_is_neither_trained_nor_measured_again(out, monkeypatch):
    monkeypatch.setattr(
        schedule,
        "trained",
        lambda *_: pytest.fail("asked for a training though no row is missing"),
    )
    experiment.main(["--preset", "smoke", "--out", str(out)])
    assert len(rows(out)) == 4


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--method", "bitfit"],
            "method: expected low-rank adapters, as lora's, got bitfit",
        ),
        (["--ranks", "17"], "rank: expected 1 <= rank <= 16"),
        (["--ranks"], "no cells"),
    ],
)
def test_a_setting_that_cannot_be_is_told_before_anything_is_trained(
    flags, text, tmp_path
):
    with pytest.raises(ValueError) as error:
        experiment.main(["--preset", "smoke", "--out", str(tmp_path), *flags])
    assert text in str(error.value) and not list(tmp_path.iterdir())


def test_a_dry_run_names_the_trainings_and_makes_none(tmp_path, capsys):
    experiment.main(["--preset", "smoke", "--out", str(tmp_path), "--dry-run"])
    assert (
        "4 of 4 matrices to measure: tiny query,value r=2 seed=0; "
        in capsys.readouterr().out
    )
    assert not list(tmp_path.iterdir())
