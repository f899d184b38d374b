"""The table, the claims and the figure of formats, on rows whose numbers are made up."""

import numpy as np
import pandas as pd
import pytest

from lora_jax.results import claims, groups
from lora_jax.results.pages import quantization as page

FORMATS = ("fp32", "bf16", "fp4", "nf4_double")


def row(part, name, seed, accuracy):
    config = {"part": part, "type": name, "seed": seed, "model": "m", "data": "d"}
    return {
        "key": f"{part} {name} {seed}",
        "config": config,
        "metrics": {"test/accuracy": accuracy},
        "examples": {"test": 100},
    }


@pytest.fixture(scope="module")
def rows():
    result = []
    for seed, (low, high) in enumerate([(0.70, 0.80), (0.71, 0.81)]):
        result.append(row("alone", "fp4", seed, low))
        result.append(row("alone", "nf4-double", seed, high))
        result.append(row("lora", "bf16", seed, high))
        result.append(row("lora", "fp32", seed, high))
        result.append(row("lora", "nf4-double", seed, low))
    return result


def group_of(rows):
    (group,) = groups(rows, page.AXES)
    return group


def test_the_table_has_the_formats_with_rows_in_their_order(rows):
    table = page.score_table(group_of(rows), (*FORMATS, "nf4"))
    assert list(table["type"]) == list(FORMATS)
    nan = np.nan
    assert list(table["alone"]) == pytest.approx([nan, nan, 70.5, 80.5], nan_ok=True)
    assert list(table["LoRA"]) == pytest.approx([80.5, 80.5, nan, 70.5], nan_ok=True)
    # Two seeds, 1 % apart: the standard deviation is 1 / √2, the error half of 1.
    assert table["LoRA error"].iloc[0] == pytest.approx(0.5)


def test_a_part_without_rows_has_no_column(rows):
    lora = [one for one in rows if one["config"]["part"] == "lora"]
    table = page.score_table(group_of(lora), FORMATS)
    assert list(table)[:3] == ["type", "LoRA", "LoRA error"]
    assert "alone" not in table
    assert list(page.text_table(table)) == ["type", "LoRA", "Δ"]
    assert page.format_claims(table)[0].statement.startswith("LoRA on NF4 + DQ")


def test_the_difference_is_that_from_fp32(rows):
    text = page.text_table(page.score_table(group_of(rows), FORMATS))
    assert list(text["LoRA"]) == ["80.5 ± 0.5", "80.5 ± 0.5", "", "70.5 ± 0.5"]
    assert list(text["Δ"]) == ["+0.0", "+0.0", "", "-10.0"]


def test_claims_hold_a_difference_against_its_error(rows):
    verdicts = {}
    for claim in page.format_claims(page.score_table(group_of(rows), FORMATS)):
        verdicts[claim.statement] = claim.verdict
    assert verdicts == {
        "without training NF4 + DQ is better than FP4": claims.REPRODUCED,
        "LoRA on NF4 + DQ is as good as on BF16": claims.NOT_REPRODUCED,
    }


@pytest.mark.parametrize(("lowest", "start"), [(79.0, 75), (77.9, 70), (2.0, 0)])
def test_bars_start_at_a_multiple_of_five_below_the_lowest(lowest, start):
    table = pd.DataFrame(
        {
            "type": ["fp32", "nf4"],
            "LoRA": [80.0, lowest],
            "LoRA error": [0.5, np.nan],
            "model": "m",
        }
    )
    (ax,) = page.score_figure(table).axes
    assert ax.get_ylim() == (start, 82)
    remark = f"\n(axis starts at {start})" if start else ""
    assert ax.get_ylabel() == f"score, %{remark}"
