"""The tables and the figure of a step's memory, from rows of round numbers."""

import pytest

from lora_jax.results.pages import memory


def row(method="lora", model="tiny", compute="float32", length=16, total=3e6):
    """A step that is predicted to take 1 MB of each part, and compiled takes 4 MB."""
    is_lora = method == "lora"
    config = {"model": model, "method": method, "compute": compute}
    config |= {"targets": "query,value" if is_lora else "", "rank": 8 * is_lora}
    metrics = {f"predicted/{part}": 1e6 for part in memory.PARTS}
    metrics |= {"predicted/total": total, "compiled/total": 4e6}
    metrics |= {"predicted/temporary": 1e6, "compiled/temporary": 2e6}
    return {"config": {**config, "batch": 4, "length": length}, "metrics": metrics}


def test_rows_are_split_by_shape_and_ordered_within():
    rows = [
        row(length=16),
        row(length=8),
        row(compute="bfloat16", method="full"),
        row(method="bitfit"),
        row(method="full"),
    ]
    by_shape = memory.by_shape(rows)
    assert list(by_shape) == ["4 rows of 8 tokens", "4 rows of 16 tokens"]
    steps = []
    for step in by_shape["4 rows of 16 tokens"]:
        steps.append((step["config"]["compute"], step["config"]["method"]))
    assert steps == [
        ("float32", "full"),
        ("float32", "bitfit"),
        ("float32", "lora"),
        ("bfloat16", "full"),
    ]


def test_a_line_has_the_parts_and_the_difference_of_predicted_from_compiled():
    (line,) = memory.step_table([row()]).to_dict("records")
    assert line["method"] == "lora q,v r=8"
    assert (line["weights"], line["predicted"], line["compiled"]) == (1, 3, 4)
    assert line["difference, %"] == pytest.approx(-25)
    assert line["of temporaries, %"] == pytest.approx(-50)


def test_a_method_without_targets_has_its_name():
    assert memory.label(row(method="full")["config"]) == "full"


def test_the_shape_stands_in_the_heading_and_not_in_the_table():
    header = memory.step_text(memory.step_table([row()])).partition("\n")[0]
    assert "model" in header
    assert "batch" not in header


def test_the_worst_total_is_named():
    rows = [row(total=4e6), row(model="other", total=4.3e6), row(total=5e6)]
    text = memory.agreement(memory.step_table(rows))
    assert text.startswith("2 of 3 totals are within 10 %, 1 within 5 %;")
    assert "is +25.0 %: tiny, float32, lora q,v r=8." in text


def titles(rows):
    parts = [{"weights": 2e6, "gradients": 1e6}] * len(rows)
    return [ax.get_title(loc="left") for ax in memory.figure(rows, parts).axes]


def test_a_row_of_panels_is_a_dtype_and_a_column_a_model():
    rows = [
        row(),
        row(compute="bfloat16"),
        row(model="b"),
        row("lora", "b", "bfloat16"),
    ]
    assert titles(rows) == [
        "tiny, float32",
        "b, float32",
        "tiny, bfloat16",
        "b, bfloat16",
    ]


def test_dtypes_with_other_models_are_drawn_side_by_side():
    rows = [row(), row(model="b"), row(model="b", compute="bfloat16")]
    assert titles(rows) == ["tiny, float32", "b, float32", "b, bfloat16"]


def test_the_stack_ends_at_the_sum_of_the_parts():
    figure = memory.figure([row()], [{"weights": 2e6, "gradients": 1e6}])
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[0].patches]
    assert ends == [2, 3, 4]
