"""Heat maps of made-up similarities, and of the paper's."""

import numpy as np
import pytest

from lora_jax.results.pages import similarity_figures as figures
from lora_jax.results.pages import similarity_maps as maps


@pytest.fixture
def wide():
    """Two layers of r = 2 against 4, the query's and the value's."""
    phi = np.linspace(0.1, 0.8, 8).reshape(2, 4)
    by_layer = {1: phi, 2: phi}
    return maps.Maps("ours", 16, 1, 2, {"ΔWq": by_layer, "ΔWv": by_layer})


def test_between_two_ranks_the_cells_the_paper_leaves_white_are_white(wide):
    sources = [wide, maps.published("rank")]
    figure = figures.middle_layer("rank", sources)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    shapes = [(2, 4), (2, 4), (2, 2), (2, 2), (8, 64), (8, 64)]
    assert [image.shape for image in images] == shapes
    np.testing.assert_array_equal(images[0].mask, np.tri(2, 4, -1, dtype=bool))
    np.testing.assert_array_equal(images[2].mask, ~np.tri(2, dtype=bool))
    np.testing.assert_array_equal(images[4].mask, np.tri(8, 64, -1, dtype=bool))


def test_all_layers_stand_below_each_other(wide):
    figure = figures.all_layers("seed", [wide])
    titles = []
    for axes in figure.axes:
        if axes.images:
            titles.append(axes.get_title(loc="left").replace("\n", " "))
    assert titles == [
        *("ours: ΔWq, layer 1/2", "ours: ΔWv, layer 1/2"),
        *("ours: ΔWq, layer 2/2", "ours: ΔWv, layer 2/2"),
    ]
