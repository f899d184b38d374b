"""The table, the advice and the figure of stored adapters, on made-up rows."""

import pytest

from lora_jax.results.pages import quantized_adapters as page
from lora_jax.results.summary import groups
from tests.results.pages.stored_adapters import SCORES, stored_metrics

FORMATS = ("nf4", "nf4_double", "fp4", "int4", "int8")


def rows(scores):
    """A row for each format and seed; float32 is the first."""
    result = []
    for stored, values in scores.items():
        for seed, score in enumerate(values):
            difference = score - scores["none"][seed]
            row = {
                "key": f"{stored} {seed}",
                "config": {"stored": stored, "seed": seed, "model": "m", "data": "d"},
                "metrics": stored_metrics(stored, score, difference),
                "examples": {"test": 100},
            }
            result.append(row)
    return result


def table_of(rows):
    (group,) = groups(rows, axes=("stored", "seed"))
    return page.storage_table(group, FORMATS)


def advice(scores):
    return page.advice(table_of(rows(scores)))


def test_the_table_has_means_errors_and_differences_of_the_same_adapter():
    table = table_of(rows(SCORES))
    assert list(table["stored"]) == ["float32", "int8", "nf4", "nf4_double"]
    nf4 = table.iloc[2]
    names = ["score", "score error", "Δ", "Δ error"]
    assert list(nf4[names]) == pytest.approx([80.5, 2.5, -1.5, 0.5])
    lines = page.storage_text(table).splitlines()
    (line,) = [line for line in lines if line.startswith("| nf4 ")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "nf4",
        "50.0",
        "16.7",
        "4.500",
        "10.00 ± 0.00",
        "5.00 ± 0.00",
        "80.5 ± 2.5",
        "-1.50 ± 0.50",
    ]


def test_the_smallest_file_within_a_standard_error_is_advised():
    assert advice(SCORES) == (
        "**The smallest file that scores within a standard error of float32's 82.0 "
        "± 2.0 % has A and B in nf4**: 50.0 instead of 300.0 kB, 80.5 %."
    )
    worse = {**SCORES, "nf4": (0.7, 0.7), "int8": (0.7, 0.7)}
    assert advice(worse) == (
        "**No smaller file scores within a standard error of float32's 82.0 ± 2.0 %.**"
    )


def test_one_seed_of_an_accuracy_has_the_binomial_error():
    assert "± 4.0 %" in advice({"none": (0.8,), "nf4": (0.8,)})


def test_one_seed_of_a_metric_without_an_error():
    one = rows({"none": (0.8,), "nf4": (0.8,)})
    for row in one:
        metrics = row["metrics"]
        for split in ("test", "change"):
            metrics[f"{split}/f1"] = metrics.pop(f"{split}/accuracy")
    text = page.advice(table_of(one))
    assert text.startswith("One seed of this metric has no standard error")


def test_the_figure_has_both_errors_of_each_format_but_float32():
    (figure,) = page.error_figures(table_of(rows(SCORES))).values()
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "m, d (float32: 300.0 kB, 82.0 %)"
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels[1] == "nf4\n50.0 kB\n80.5 %"
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([10] * 3 + [5] * 3)


def test_float32_alone_has_a_table_and_no_figure():
    table = table_of(rows({"none": (0.8,)}))
    assert len(table) == 1
    assert page.error_figures(table) == {}
