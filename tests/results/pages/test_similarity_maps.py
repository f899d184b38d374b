"""Tables of small made-up maps, and of the paper's."""

import numpy as np

from lora_jax.results.pages import similarity_maps as maps


def row(comparison, matrix, phi):
    """A row of two runs; `phi` is [layer, i, j] of plain lists."""
    run = {"model": "small", "data": "films"}
    config = {
        "comparison": comparison,
        "matrix": f"blocks/attention/{matrix}",
        "side": "input",
        "left": {**run, "rank": 1, "seed": 0},
        "right": {**run, "rank": 2, "seed": 0},
    }
    return {"key": matrix, "config": config, "dimension": 100, "phi": phi}


ROWS = [
    row("rank", "value", [[[0.5, 0.6]], [[0.7, 0.8]]]),
    row("rank", "query", [[[0.1, 0.2]], [[0.3, 0.4]]]),
    row("random", "query", [[[0.01, 0.02]]]),
]


def test_our_maps_have_the_papers_names_and_count_layers_from_1():
    ours = maps.ours(ROWS)
    assert list(ours.phi) == ["ΔWq", "ΔWv", "random"]
    assert (ours.width, ours.middle, ours.layers) == (100, 1, 2)
    np.testing.assert_array_equal(ours.phi["ΔWq"][2], [[0.3, 0.4]])
    # A random matrix has no layer of its own.
    np.testing.assert_array_equal(ours.phi["random"][1], [[0.01, 0.02]])
    assert len(ours.trained) == 4


def test_the_table_of_cells_has_a_line_for_each_i_of_every_map():
    table = maps.cells(ROWS)
    # Two matrices with two layers, and one map of random matrices.
    assert len(table) == 2 * 2 + 1
    assert list(table.columns[:9]) == [
        *("model", "data", "side", "comparison", "matrix"),
        *("rank_left", "seed_left", "rank_right", "seed_right"),
    ]
    assert list(table.comparison) == ["random"] + 4 * ["rank"]
    last = table.iloc[-1]
    assert (last.layer, last.i, last["1"], last["2"]) == (2, 1, 0.7, 0.8)


def test_the_papers_maps_are_as_read_from_its_figures():
    ranks, seeds = maps.published("rank"), maps.published("seed")
    layers = [1, 32, 48, 64, 96]
    assert sorted(ranks.phi["ΔWq"]) == sorted(seeds.phi["ΔWv"]) == layers
    figure3 = ranks.phi["ΔWq"][48]
    assert figure3.shape == (8, 64)
    assert figure3[0, 0] == 0.4043
    assert np.isnan(figure3[1, 0])
    random = seeds.phi["random"][48]
    assert random.shape == (64, 64)
    assert random[63, 63] == 0.0049


def test_the_table_has_every_layer_the_mean_and_what_is_expected():
    first = np.array([[0.5, 0.6], [0.6, 0.7]])
    second = np.array([[0.3, 0.4], [0.4, 0.5]])
    by_matrix = {"ΔWq": {1: first, 2: second}, "random": {1: first / 50}}
    table = maps.similarities(maps.Maps("ours", 100, 1, 2, by_matrix))
    assert list(table.columns) == [
        *("source", "matrix", "layer"),
        *("φ(1,1)", "φ(2,2)", "n"),
    ]
    assert list(table.layer) == ["1", "2", "mean", "mean", ""]
    assert table.matrix.iloc[-1] == "expected, d = 100"
    numbers = [
        [0.5, 0.7, 2 * 0.68],
        [0.3, 0.5, 2 * 0.48],
        [0.4, 0.6, 2 * 0.58],
        [0.01, 0.014, -0.012],
        [0.01, 0.02, 0],
    ]
    np.testing.assert_allclose(table.iloc[:, 3:].astype(float), numbers)
