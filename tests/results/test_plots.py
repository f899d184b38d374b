"""Figures: what is drawn, where, in which colors; the same bytes every time."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lora_jax.results import plots, report

OURS: plots.Series = {
    "Wq": ([1, 2, 64], [0.76, 0.77, 0.78], [0.01, 0.01, 0.01]),
    "Wq,Wv": ([64, 1, 2], [0.80, 0.78, math.nan], [math.nan, 0.01, 0.01]),
}
PAPER: plots.Series = {
    "Wq,Wv": ([1, 4], [73.4, 73.7], None),
    "all": ([1, 4], [74.1, 74.0], None),
}


def draw() -> Figure:
    beside = [plots.Panel(PAPER, "Paper", "accuracy, %")]
    return plots.lines_with_errors(
        OURS, xlabel="rank r", ylabel="accuracy", title="Ours", beside=beside
    )


def axes(figure: Figure) -> list[Any]:
    return figure.axes


def png(tmp_path: Path, figure: Figure) -> bytes:
    paths = report.render(
        tmp_path / "figure", markdown="", table=pd.DataFrame({"a": [1]}), figure=figure
    )
    return paths[-1].read_bytes()


def bars(**changes) -> Figure:
    series = {
        "ours": (["LoRA", "BitFit"], [0.8, 0.7], [0.1, 0.1]),
        "paper": (["LoRA"], [0.9], None),
    }
    return plots.bars_with_errors(
        series, xlabel="method", ylabel="accuracy", title="SST-2", **changes
    )


def test_each_panel_has_its_own_y_axis_and_ticks_at_the_ranks():
    ours, paper = axes(draw())
    assert ours.get_ylim()[0] < 0.75 and 0.80 < ours.get_ylim()[1] < 1
    start, end = paper.get_ylim()
    assert 72 < start <= 73.3 and 74 < end < 75
    assert [text.get_text() for text in ours.get_xticklabels()] == ["1", "2", "4", "64"]
    assert (paper.get_title(loc="left"), paper.get_ylabel(), ours.get_xlabel()) == (
        "Paper",
        # What is cut says so, and starts at a tick.
        f"accuracy, %\n(axis starts at {start:g})",
        "rank r",
    )
    assert start in paper.get_yticks()


def test_a_label_has_one_color_in_all_panels_and_stands_in_the_legend_once():
    figure = draw()
    ours, paper = axes(figure)
    assert (
        ours.containers[1].lines[0].get_color()
        == paper.containers[0].lines[0].get_color()
        == plots.COLORS[1]
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "Wq",
        "Wq,Wv",
        "all",
    ]


def test_points_are_drawn_in_order_of_x_with_gaps():
    line = axes(draw())[0].containers[1].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 64])
    np.testing.assert_array_equal(line.get_ydata(), [0.78, math.nan, 0.80])


def test_the_legend_covers_no_axes():
    figure = draw()
    legend = figure.legends[0].get_window_extent()
    assert all(legend.y1 <= ax.get_tightbbox().y0 + 1 for ax in axes(figure))


def test_linear_scale_takes_zero():
    figure = plots.lines_with_errors(
        {"a": ([0, 1], [1, 2], None)},
        xlabel="x",
        ylabel="y",
        title="t",
        xscale="linear",
    )
    assert figure.axes[0].get_xscale() == "linear"


def test_bars_stand_at_their_category():
    ax = axes(bars())[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["LoRA", "BitFit"]
    middles = [round(bar.get_x() + bar.get_width() / 2, 6) for bar in ax.patches]
    assert middles == [-0.2, 0.8, 0.2]
    assert bars(ylim=(0.5, 1)).axes[0].get_ylim() == (0.5, 1)


def test_same_bytes_every_time_and_whatever_the_users_settings(tmp_path: Path):
    first = png(tmp_path, draw())
    assert png(tmp_path, bars()) == png(tmp_path, bars())
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "black", "legend.fontsize": 3}
    ):
        assert png(tmp_path, draw()) == first
    assert matplotlib.rcParams["font.size"] != 12


def test_all_unequal_lengths_are_told_at_once():
    series = {"a": ([1, 2], [1.0], None), "b": ([1], [1.0], [0.1, 0.2])}
    with pytest.raises(
        ValueError,
        match=r"'t', 'a': expected .* got \[2, 1\]\n.*'b': expected .* got \[1, 1, 2\]",
    ):
        plots.lines_with_errors(series, xlabel="x", ylabel="y", title="t")


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="'t' has no data"):
        plots.bars_with_errors(
            {"a": (["x"], [math.nan], None)}, xlabel="x", ylabel="y", title="t"
        )


def test_scales_that_cannot_be():
    with pytest.raises(ValueError, match="expected log2 or linear, got 'log10'"):
        plots.lines_with_errors(OURS, xlabel="x", ylabel="y", title="t", xscale="log10")
    with pytest.raises(
        ValueError, match="above 0 on a log2 scale, got 0; pass xscale='linear'"
    ):
        plots.lines_with_errors(
            {"a": ([0, 1], [1, 2], None)}, xlabel="x", ylabel="y", title="t"
        )


def test_labels_of_bars_break_at_commas_alone():
    """Four names run into their neighbors; a label's own line breaks stay."""
    names = ["query", "query,\nvalue", "query,key,value,output", "float32\n80.5 %"]
    series = {"ours": (names, [1.0, 2.0, 3.0, 4.0], [0.1] * 4)}
    figure = plots.bars_with_errors(series, title="", xlabel="", ylabel="")
    (ax,) = figure.axes
    texts = [label.get_text() for label in ax.get_xticklabels()]
    assert texts == [
        "query",
        "query,\nvalue",
        "query,\nkey,\nvalue,\noutput",
        names[-1],
    ]
