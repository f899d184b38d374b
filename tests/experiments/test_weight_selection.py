"""The budget's ranks by hand, and what the table says of made-up scores."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from lora_jax import results
from lora_jax.experiment import schedule

script: Any = import_module("weight_selection")

SMOKE = script.PRESETS["smoke"]


def ranks(cells):
    return {cell["targets"]: cell["rank"] for cell in cells}


def test_the_default_budget_gives_the_ranks_of_table_5():
    cells = script.cells(SMOKE)
    assert len(cells) == 7 * 2 and {cell["budget"] for cell in cells} == {
        8 * (16 + 16) * 2
    }  # r (i + o) L
    published = script.published("WikiSQL").r
    assert (
        ranks(cells)
        == published.to_dict()
        == dict(zip(script.IN_PAPER, (8, 8, 8, 8, 4, 4, 2), strict=True))
    )


def test_what_is_left_of_a_budget_is_left():
    sets = ("query", "query,value", "query,key,value,output", "blocks/mlp/up")
    # r = 1 costs 64, 128, 256 and 2 (16 + 32) = 96
    assert ranks(script.cells(replace(SMOKE, budget=1000, targets=sets))) == dict(
        zip(sets, (15, 7, 3, 10), strict=True)
    )
    assert ranks(script.cells(replace(SMOKE, budget=256, targets=sets))) == dict(
        zip(sets, (4, 2, 1, 2), strict=True)
    )


def test_biases_that_learn_too_are_paid_for():
    (cell,) = script.cells(
        replace(
            SMOKE,
            budget=900,
            targets=("query",),
            seeds=(0,),
            setup=replace(SMOKE.setup, bias="all"),
        )
    )
    within, above = schedule.check([cell, {**cell, "rank": cell["rank"] + 1}])
    assert within.adapter <= 900 < above.adapter == within.adapter + 64


def test_a_budget_below_rank_one_says_what_that_costs():
    said = r"budget: expected at least what r = 1 costs \(128 for query,key, 128 for query,value, 256 for query.*\), got 100"
    with pytest.raises(ValueError, match=said):
        script.cells(replace(SMOKE, budget=100))
    with pytest.raises(
        ValueError, match=r"rows: expected 0 or more \(0 is all\), got -5"
    ):
        script.cells(replace(SMOKE, setup=replace(SMOKE.setup, rows=-5)))
    with pytest.raises(ValueError, match="no cells: expected at least one value"):
        script.cells(replace(SMOKE, targets=()))


def rows(scores, **changes):
    """Rows of made-up scores {targets: [score of each seed]}."""
    made = []
    for cell in script.cells(replace(SMOKE, targets=tuple(scores), **changes)):
        if cell["seed"] < len(scores[cell["targets"]]):
            config = {**cell, "data_source": "made up"}
            score = {
                "validation/accuracy": 0.0,
                "test/accuracy": scores[cell["targets"]][cell["seed"]],
            }
            sizes = {"adapter": 500 + cell["rank"], "head": 34}
            made.append(
                {
                    "config": config,
                    "metrics": score,
                    "examples": {"test": 100, "validation": 9},
                    "parameters": sizes,
                }
            )
    return [{**row, "key": results.key(row["config"])} for row in made]


SCORES = {
    "query,value": [0.8, 0.82],
    "query": [0.7, 0.7],
    "key": [0.6, 0.62],
    "value": [0.79, 0.81],
}


def test_the_table_has_ours_and_the_paper_s(tmp_path):
    script.render(rows(SCORES), tmp_path)
    text = (tmp_path / "weight_selection.md").read_text()
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    # Standard error of 80 and 82: std sqrt(2), over sqrt(2) seeds, 1.
    assert [
        "query,value",
        "4",
        "504",
        "4",
        "81.0 ± 1.0",
        "73.7 ± 0.5",
        "91.3 ± 0.1",
    ] in lines
    assert [line[0] for line in lines[2:6]] == [
        "query",
        "key",
        "value",
        "query,value",
    ]  # as in the paper
    assert (
        "- ours: {query,value} 81.0, {value} 80.0, {query} 70.0, {key} 61.0\n" in text
    )
    assert (
        "- paper, WikiSQL: {query,value} 73.7, {value} 73.0, {query} 70.4, {key} 70.0\n"
        in text
    )
    assert ["{query}", "+11.0 ± 1.0", "better", "+3.3", "+0.3"] in lines
    assert ["{value}", "+1.0 ± 1.4", "within the error", "+0.7", "+0.3"] in lines
    assert ["{key}", "+20.0 ± 1.4", "better", "+3.7", "+0.5"] in lines
    verdicts = script.verdicts(rows(SCORES))
    assert [(verdict.ours, verdict.verdict) for verdict in verdicts] == [
        ("+11.0 ± 1.0 points", "seen"),
        ("+20.0 ± 1.4 points", "seen"),
    ]
    assert (
        "±" in text
        and "the standard error over seeds" in text
        and "512 parameters" in text
    )


def test_what_is_drawn_does_not_depend_on_the_order_of_rows(tmp_path):
    made = rows(SCORES)
    first = [path.read_bytes() for path in script.render(made, tmp_path / "a")]
    assert [
        path.read_bytes() for path in script.render(made[::-1], tmp_path / "b")
    ] == first


def test_one_seed_and_sets_the_paper_does_not_have(tmp_path):
    script.render(rows({"query": [0.7], "blocks/mlp/.*": [0.75]}), tmp_path)
    text = (tmp_path / "weight_selection.md").read_text()
    assert "binomial standard error of one seed" in text and "75.0 ± 4.3" in text
    assert "gains" not in text and not script.verdicts(
        rows({"query": [0.7]})
    )  # {query, value} is not there
    script.render(rows({"blocks/mlp/.*": [0.75]}), tmp_path)
    assert "paper, " not in (tmp_path / "weight_selection.md").read_text()


def test_two_budgets_are_two_tables(tmp_path):
    made = rows(SCORES) + rows({"query": [0.1]}, budget=64)
    script.render(made, tmp_path)
    text = (tmp_path / "weight_selection.md").read_text()
    assert text.index("512 parameters") < text.index("64 parameters")
