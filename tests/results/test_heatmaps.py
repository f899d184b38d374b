"""Heat maps: the cells that are drawn, one scale for all, what is left white; the same bytes every time."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from lora_jax.results import heatmaps, report
from lora_jax.results.heatmaps import Panel

PHI = np.array([[0.5, 0.25, 0.125], [0.75, 1.0, 0.0]])


def test_all_panels_and_the_bar_have_one_scale_from_0_to_the_highest_value():
    figure = heatmaps.grid(
        [[Panel("a", PHI / 2), Panel("b", PHI)], [Panel("c", PHI / 10)]], label="phi"
    )
    axes: list[Any] = figure.axes
    assert [ax.images[0].get_clim() for ax in axes if ax.images] == [(0, 1)] * 3
    assert axes[-1].get_ylabel() == "phi" and axes[-1].get_ylim() == (0, 1)


def test_i_goes_down_and_j_across_both_from_1():
    ax: Any = heatmaps.grid([[Panel("a", PHI)]], label="phi").axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == (
        "j",
        "i",
        "a",
    )
    assert (ax.get_xlim(), ax.get_ylim()) == (
        (0.5, 3.5),
        (2.5, 0.5),
    )  # cell (1, 1) is in the upper left corner
    np.testing.assert_array_equal(ax.images[0].get_array(), PHI)


def test_a_map_may_begin_at_another_i_and_leave_some_out():
    axes: list[Any] = heatmaps.grid(
        [[Panel("a", PHI, 12), Panel("b", PHI, 400, 1273)]], label="phi"
    ).axes
    assert [ax.get_ylim() for ax in axes[:2]] == [(13.5, 11.5), (1273.5, 399.5)]


def test_what_is_nan_or_missing_is_white():
    holes = np.where(PHI > 0.6, np.nan, PHI)
    axes: list[Any] = heatmaps.grid(
        [[Panel("a", holes), None], [Panel("b", PHI)]], label="phi"
    ).axes
    np.testing.assert_array_equal(axes[0].images[0].get_array().mask, PHI > 0.6)
    assert [ax.get_visible() for ax in axes[:4]] == [True, False, True, False]
    assert axes[0].images[0].get_clim() == (0, 1)


def test_the_two_triangles_share_the_diagonal():
    nan = np.nan
    np.testing.assert_array_equal(
        heatmaps.upper(PHI), [[0.5, 0.25, 0.125], [nan, 1.0, 0.0]]
    )
    np.testing.assert_array_equal(heatmaps.lower(PHI), [[0.5, nan], [0.75, 1.0]])


def test_same_bytes_whatever_the_users_settings(tmp_path):
    def png(name: str) -> bytes:
        figure = heatmaps.grid([[Panel("a", PHI)]], label="phi")
        return report.render(
            tmp_path / name, markdown="", table=pd.DataFrame({"a": [1]}), figure=figure
        )[-1].read_bytes()

    first = png("first")
    with matplotlib.rc_context(
        {"font.size": 30, "image.cmap": "jet", "axes.facecolor": "black"}
    ):
        assert png("second") == first


def test_every_panel_that_cannot_be_drawn_is_told():
    flat, empty, negative = (
        Panel("flat", PHI[0]),
        Panel("empty", PHI * np.nan),
        Panel("negative", -PHI),
    )
    with pytest.raises(ValueError) as error:
        heatmaps.grid([[flat, empty, Panel("good", PHI), negative]], label="phi")
    lines = str(error.value).splitlines()
    assert (
        lines[0] == "'flat': expected a matrix with values of 0 or more, got shape (3,)"
    )
    assert [line.split(":")[0] for line in lines] == ["'flat'", "'empty'", "'negative'"]
    with pytest.raises(ValueError, match="expected at least one panel, got none"):
        heatmaps.grid([[None]], label="phi")
