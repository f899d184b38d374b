"""Subspace similarity: phi against numpy's SVD of what was kept, the paper's maps, what is concluded from either."""

from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_jax import results
from lora_jax.experiment import schedule

SUFFIXES = (".md", ".csv", ".png", "_layers.png", "_seeds.png", "_seeds_layers.png")


experiment = import_module("subspace_similarity")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The smoke run: r = 2 against 4, seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("smoke")
    experiment.main(["--preset", "smoke", "--out", str(folder)])
    return folder


def rows(out):
    return results.read(out / "subspace_similarity.jsonl")


def phi(u, v):
    """Equation 4, cell by cell, from columns of directions."""
    return np.array(
        [
            [
                (np.linalg.norm(u[:, :i].T @ v[:, :j]) ** 2) / min(i, j)
                for j in range(1, 1 + v.shape[1])
            ]
            for i in range(1, 1 + u.shape[1])
        ]
    )


def kept(out, cell, name):
    return load_file(out / "adapters" / f"{results.key(cell)}.safetensors")[
        name
    ].astype(np.float64)


def test_there_is_a_row_for_each_comparison_and_matrix_and_one_of_random_matrices(out):
    found = [
        (row["config"]["comparison"], row["config"]["matrix"].split("/")[-1])
        for row in rows(out)
    ]
    assert found == [
        ("rank", "query"),
        ("rank", "value"),
        ("seed", "query"),
        ("seed", "value"),
        ("random", "query"),
    ]
    ranks = {
        (row["config"]["left"]["rank"], row["config"]["right"]["rank"])
        for row in rows(out)[:2]
    }
    seeds = {
        (row["config"]["left"]["seed"], row["config"]["right"]["seed"])
        for row in rows(out)[2:]
    }
    assert (ranks, seeds) == ({(2, 4)}, {(0, 1)})


def test_phi_is_that_of_numpys_singular_vectors_of_a(out):
    for row in rows(out)[:4]:
        config = row["config"]
        pair = [config["left"], config["right"]]
        a = [
            kept(out, cell, f"{config['matrix']}/lora_a")[..., : cell["rank"]]
            for cell in pair
        ]
        for layer, found in enumerate(row["phi"]):
            u, v = (
                np.linalg.svd(each[layer].T)[2][: each.shape[-1]].T for each in a
            )  # the paper's A is r x d
            np.testing.assert_allclose(found, phi(u, v), atol=2e-4)
            assert row["metrics"][f"layer{layer + 1}/phi_1_1"] == pytest.approx(
                (u[:, 0] @ v[:, 0]) ** 2, abs=1e-4
            )


def test_the_output_side_takes_b_and_trains_nothing_anew(out, monkeypatch):
    monkeypatch.setattr(
        schedule, "_train", lambda *_, **__: pytest.fail("trained a cell that was kept")
    )
    wanted = experiment.comparisons(
        experiment.replace(experiment.PRESETS["smoke"], side="output")
    )
    pair = [wanted[0]["left"], wanted[0]["right"]]
    (row,) = experiment.measure(wanted[:1], pair, out)
    b = [
        kept(out, cell, f"{wanted[0]['matrix']}/lora_b")[1, : cell["rank"]]
        for cell in pair
    ]
    np.testing.assert_allclose(
        row["phi"][1],
        phi(*(np.linalg.svd(each)[2][: len(each)].T for each in b)),
        atol=2e-4,
    )
    assert "output side" in experiment.section("rank", [row])


def test_metrics_have_the_means_over_layers_and_what_is_expected_of_random_directions(
    out,
):
    row = rows(out)[0]
    values = np.array(row["phi"])
    assert row["metrics"]["mean/phi_2_2"] == pytest.approx(
        values[:, 1, 1].mean(), abs=1e-4
    )
    assert row["metrics"]["expected/phi_2_2"] == 2 / 16 and row["dimension"] == 16


def test_the_trainings_are_those_of_the_rank_sweep():
    sweep = import_module("rank_sweep")
    its = sweep.cells(sweep.replace(sweep.PRESETS["smoke"], ranks=(2, 4), seeds=(0, 1)))
    ours = experiment.comparisons(experiment.PRESETS["smoke"])
    keys = {results.key(cell) for row in ours for cell in (row["left"], row["right"])}
    assert len(keys) == 3 and keys <= {
        results.key(cell) for cell in schedule.resolved(its)
    }


def test_the_same_is_drawn_from_rows_in_any_order(out, tmp_path):
    experiment.render(rows(out)[::-1], tmp_path)
    for suffix in SUFFIXES:
        name = f"subspace_similarity{suffix}"
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_every_cell_is_in_the_table(out):
    table = experiment.every_cell(rows(out))
    assert (
        len(table) == 2 * 2 * 2 + 2 * 2 * 4 + 4
    )  # matrices, layers, lines i; one map of random matrices
    line = table[
        (table.comparison == "rank") & (table.layer == 2) & (table.i == 1)
    ].iloc[0]
    assert list(line[[1, 2, 3, 4]]) == rows(out)[0]["phi"][1][0]
    text = (out / "subspace_similarity.csv").read_text()
    assert text.startswith(
        "model,data,side,comparison,matrix,rank_left,seed_left,rank_right,seed_right,layer,i,1,2,3,4\n"
    )


def test_the_papers_maps_are_as_read_from_its_figures():
    ranks, seeds = (experiment.published(kind) for kind in ("rank", "seed"))
    assert sorted(ranks.phi["ΔWq"]) == sorted(seeds.phi["ΔWv"]) == [1, 32, 48, 64, 96]
    figure3 = ranks.phi["ΔWq"][48]
    assert (
        figure3.shape == (8, 64) and figure3[0, 0] == 0.4043 and np.isnan(figure3[1, 0])
    )
    assert (
        seeds.phi["random"][48].shape == (64, 64)
        and seeds.phi["random"][48][63, 63] == 0.0049
    )


@pytest.mark.parametrize("kind", ["rank", "seed"])
def test_the_paper_passes_the_tests_it_is_put_to(kind):
    assert (
        experiment.effects(kind, experiment.published(kind))
        .paper.str.startswith("there")
        .all()
    )


def maps(width=100, **phi):
    return experiment.Maps(
        "ours", width, 1, 1, {name: {1: np.array(at)} for name, at in phi.items()}
    )


def test_an_effect_that_is_not_there_is_said_to_be_absent():
    chance = [[0.01, 0.02], [0.02, 0.02]]
    held = experiment.effects("rank", maps(ΔWq=chance, ΔWv=chance))
    assert list(held.ours) == ["absent, 0 of 2", "absent, 0 of 2", "absent, 0 of 1"]
    held = experiment.effects(
        "rank", maps(ΔWq=[[0.3, 0.3], [0.3, 0.2]], ΔWv=[[0.6, 0.6], [0.6, 0.7]])
    )
    assert list(held.ours) == ["there, 2 of 2", "absent, 1 of 2", "there, 1 of 1"]


def test_shared_directions_are_counted_beyond_those_of_random_ones():
    r, d = 8, 100
    few = np.full(
        (r, r), (1 + r * r / d) / r
    )  # one direction in common, beyond the 0.64 of chance
    held = experiment.effects("seed", maps(d, ΔWq=few, random=np.full((r, r), r / d)))
    assert list(held.ours) == ["absent, 0 of 1", "there, 1 of 1", "there, 1 of 1"]
    assert list(held.effect)[1:] == [
        "they share few in all",
        "random matrices share none",
    ]


def test_the_table_has_every_layer_the_mean_and_what_is_expected():
    layers = {
        1: np.array([[0.5, 0.6], [0.6, 0.7]]),
        2: np.array([[0.3, 0.4], [0.4, 0.5]]),
    }
    table = experiment.similarities(
        experiment.Maps(
            "ours", 100, 1, 2, {"ΔWq": layers, "random": {1: layers[1] / 50}}
        )
    )
    assert list(table.columns) == ["whose", "matrix", "layer", "φ(1,1)", "φ(2,2)", "n"]
    assert (
        list(table.layer) == ["1", "2", "mean", "mean", ""]
        and table.matrix.iloc[-1] == "expected, d = 100"
    )
    numbers = [
        [0.5, 0.7, 2 * 0.68],
        [0.3, 0.5, 2 * 0.48],
        [0.4, 0.6, 2 * 0.58],
        [0.01, 0.014, -0.012],
        [0.01, 0.02, 0],
    ]
    np.testing.assert_allclose(table.iloc[:, 3:].astype(float), numbers)


def test_between_two_ranks_the_cells_the_paper_leaves_white_are_white(out):
    each = [experiment.ours(rows(out)[:2]), experiment.published("rank")]
    shown = [
        ax.images[0].get_array()
        for ax in experiment.figure("rank", each).axes
        if ax.images
    ]
    assert [image.shape for image in shown] == [
        (2, 4),
        (2, 4),
        (2, 2),
        (2, 2),
        (8, 64),
        (8, 64),
    ]
    np.testing.assert_array_equal(shown[0].mask, np.tri(2, 4, -1, dtype=bool))
    np.testing.assert_array_equal(shown[2].mask, ~np.tri(2, dtype=bool))
    np.testing.assert_array_equal(shown[4].mask, np.tri(8, 64, -1, dtype=bool))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--ranks", "4", "4"],
            "expected ranks LOW HIGH and two different seeds, got 4 4 and 0 1",
        ),
        (["--seeds", "1", "1"], "two different seeds, got 2 4 and 1 1"),
        (
            ["--method", "bitfit"],
            "expected low-rank adapters of one width on the input side, got bitfit",
        ),
        (
            ["--targets", "mlp/up,mlp/down"],
            "one width on the input side, got {'blocks/mlp/down': 32, 'blocks/mlp/up': 16}",
        ),
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
        "5 of 5 comparisons to make: tiny query,value r=2 seed=0; "
        in capsys.readouterr().out
    )
    assert not list(tmp_path.iterdir())
