"""What the page says of made-up scores of truncated updates."""

import numpy as np
import pandas as pd
import pytest

from lora_jax.results import claims, groups
from lora_jax.results.pages import svd_truncation as page


def part(scores, error=1.0):
    ks = [0, 1, 2, 4, 8][: len(scores)]
    errors = [1 - k / 10 for k in ks]
    columns = {"k": ks, "score": scores, "relative_error": errors, "energy": 0.5}
    return pd.DataFrame(
        {**columns, "series": "full", "error": error, "effective_rank": 3.2}
    )


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        (
            [50, 79.5, 60, 79.1, 80],
            "k = 4 on the score stays within one standard error (1.0) of the whole "
            "ΔW's 80.0**; the top 4 miss 60 % of ΔW's norm",
        ),
        ([79.0, 79.5, 90, 79.1, 80], "k = 0 on the score stays"),
        ([50, 60, 70, 78.9, 80], "k = 8 on the score stays"),
    ],
)
def test_the_sufficient_rank_is_named(scores, text):
    sentence = page.sufficient_rank(part(scores))
    assert f"From {text}" in sentence
    assert "3.2 of 8" in sentence


def test_without_an_error_no_k_is_named():
    assert "standard error" not in page.sufficient_rank(part([50, 60], np.nan))


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([50, 60, 79.5, 80, 80], claims.REPRODUCED),
        ([50, 60, 70, 80, 80], claims.NOT_REPRODUCED),
        # Where no direction does as well, nothing is said of two.
        ([80, 60, 79.5, 80, 80], claims.WITHIN_ERROR),
    ],
)
def test_the_top_two_do_as_well_where_none_do_worse(scores, verdict):
    (claim,) = page.truncation_claims(part(scores))
    assert claim.verdict == verdict
    assert claim.evidence.endswith(f"{scores[0]:.1f} without any")


def test_rows_in_the_making_have_no_claim():
    assert page.truncation_claims(part([50, 60])) == []
    (claim,) = page.truncation_claims(part([50, 60, 80])[1:])
    assert claim.evidence == "80.0 against 80.0 ± 1.4 %"


def test_the_last_line_is_all_directions():
    table = page.text_table(part([50, 60, 80]).assign(parameters=[0, 8, 16]))
    assert list(table.k) == ["0", "1", "2 (all)"]
    assert list(table.iloc[1])[1:] == [8, "60.0 ± 1.0", "0.900", "0.500"]


def row(k, **training):
    config = {"data": "films", "model": "small", "seed": 0, "k": k, **training}
    losses = {"delta/relative_error": 0.5, "delta/energy": 0.25}
    return {
        "key": f"{training['method']} {k}",
        "config": config,
        "metrics": {"test/accuracy": k / 10, **losses, "delta/effective_rank": 2.0},
        "examples": {"test": 100},
        "parameters": 32 * k,
    }


def test_a_full_fine_tuning_without_rank_and_targets_stands_below_lora():
    lora = {"method": "lora", "targets": "query", "rank": 4, "learning_rate": 1e-3}
    full = {"method": "full", "learning_rate": 1e-4}
    rows = [row(8, **full), row(4, **lora), row(0, **lora), row(0, **full)]
    (group,) = groups(rows, axes=page.AXES)
    table = page.truncation_table(group)
    assert list(table.series) == [
        *2 * ["LoRA r = 4 (query), lr 0.001"],
        *2 * ["full fine-tuning, lr 0.0001"],
    ]
    assert list(table.k) == [0, 4, 0, 8]
    assert list(table.score) == [0, 40, 0, 80]
    assert list(table.energy) == [0.25] * 4
    # Two points each, and their scores at k = 0 as dotted lines.
    axes, _ = page.figures(table)[""].axes
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 2
