"""The tables and the advice on merging, on rows whose numbers are made up."""

import pytest

from lora_jax.results.pages import quantized_merge as page
from lora_jax.results.summary import groups

FORMATS = ("nf4", "int8")
PLACES = tuple(page.PLACES)


def row(quantize, place, seed, distance):
    metrics = {
        "test/accuracy": 0.8,
        "unmerged/accuracy": 0.81,
        "matrices/distance": distance,
        "matrices/kept": 1 - distance,
        "logits/distance": distance,
        "logits/largest": 0.5,
        "logits/same_class": 0.99,
        "size/bits": 32,
    }
    layers = {"distance": [distance, 2 * distance], "kept": [0.5, 0.25]}
    return {
        "key": f"{quantize} {place} {seed}",
        "config": {"quantize": quantize, "into": place, "seed": seed},
        "metrics": metrics,
        "layers": {"blocks/attention/query": layers},
        "examples": {"test": 100},
    }


def group_of(places):
    """Two seeds of two formats, merged in these places."""
    distances = {"dequantized": 0.0, "original": 0.3, "requantized": 0.8}
    rows = []
    for quantize in ("int8", "nf4"):
        for place in places:
            distance = distances[place]
            for seed, change in enumerate((-0.1, 0.1)):
                seed_distance = distance + change if distance else 0.0
                rows.append(row(quantize, place, seed, seed_distance))
    (group,) = groups(rows, axes=(*page.AXES, "seed"))
    return group


def test_the_table_has_means_over_seeds_in_the_order_of_formats_and_places():
    table = page.merge_table(group_of(PLACES), FORMATS)
    assert list(table["quantize"]) == ["nf4"] * 3 + ["int8"] * 3
    assert list(table["into"]) == list(PLACES) * 2
    assert list(table["distance"]) == pytest.approx([0, 0.3, 0.8] * 2)
    assert list(table["unmerged, %"]) == pytest.approx([81] * 6)
    assert list(table["same class, %"]) == [99.0] * 6


def test_the_page_does_not_show_the_error_of_the_logits():
    text = page.merge_text(page.merge_table(group_of(PLACES), FORMATS))
    assert "| nf4      | original    |    0.300 |   0.700 | 0.3000 |" in text
    assert "error" not in text


def test_the_place_where_the_logits_move_least_is_advised():
    table = page.merge_table(group_of(PLACES), FORMATS)
    assert page.advice(table).startswith("**Merge into dequantized weights**")
    others = page.merge_table(group_of(PLACES[1:]), FORMATS)
    assert page.advice(others).startswith("**Merge into original weights**")


def test_the_exact_place_has_no_line_by_layer():
    table = page.layer_table(group_of(PLACES), FORMATS)
    assert list(table["quantize"]) == ["nf4", "nf4", "int8", "int8"]
    assert list(table["into"]) == ["original", "requantized"] * 2
    assert list(table["layer 1"]) == ["0.30, 0.50", "0.80, 0.50"] * 2
    assert list(table["layer 2"]) == ["0.60, 0.25", "1.60, 0.25"] * 2


def test_the_exact_place_alone_has_no_table_by_layer():
    assert page.layer_table(group_of(["dequantized"]), FORMATS).empty


def test_the_figure_has_bars_for_each_place():
    figure = page.logits_figure(page.merge_table(group_of(PLACES), FORMATS))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([0, 0, 0.3, 0.3, 0.8, 0.8])
