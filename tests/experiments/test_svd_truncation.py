"""The study of truncation: its cells, what it says, and the smoke run's own training as the reference."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lora_jax import results
from lora_jax.experiment import schedule

script: Any = import_module("svd_truncation")

SMOKE = script.PRESETS["smoke"]


def test_the_k_there_are():
    lora, full = schedule.resolved(script.cells(replace(SMOKE, ks=(0, 1, 4, 8, 64, 1))))
    assert [point["k"] for point in script.points(lora, (0, 1, 4, 8, 64, 1))] == [
        0,
        1,
        4,
        8,
    ]
    assert [point["k"] for point in script.points(full, (0, 1, 4, 8, 64, 1))] == [
        0,
        1,
        4,
        8,
        16,
    ]


def test_the_lora_is_rank_sweep_s_cell():
    lora, full = script.cells(script.PRESETS["quick"])
    assert (lora["targets"], lora["rank"], lora["seed"], lora["method"]) == (
        "query,value",
        64,
        0,
        "lora",
    )
    assert (
        lora["learning_rate"] == 1e-3
        and full["learning_rate"] == 1e-4
        and full["method"] == "full"
    )
    again = script.cells(replace(script.PRESETS["quick"], targets="query", rank=8))[1]
    assert again == full  # another LoRA trains no other full fine-tuning


def test_bad_settings_are_found_first():
    with pytest.raises(
        ValueError, match=r"ks: expected whole numbers >= 0, got -1, -2"
    ):
        script.cells(replace(SMOKE, ks=(-1, 0, -2)))
    with pytest.raises(
        ValueError,
        match=r"method: expected lora \(full fine-tuning is trained beside it\), got 'bitfit'",
    ):
        script.cells(replace(SMOKE, setup=replace(SMOKE.setup, method="bitfit")))


def part(scores, error=1.0):
    k = [0, 1, 2, 4, 8][: len(scores)]
    told = {"series": "full", "error": error, "effective_rank": 3.2}
    return pd.DataFrame(
        {"k": k, "score": scores, "relative_error": [1 - x / 10 for x in k], **told}
    )


@pytest.mark.parametrize(
    ("scores", "least"),
    [
        (
            [50, 79.5, 60, 79.1, 80],
            "k = 4 on it stays within one standard error (1.0) of the whole ΔW's 80.0**; the top 4 "
            "miss 60 % of",
        ),
        ([79.0, 79.5, 90, 79.1, 80], "k = 0 on it stays"),
        ([50, 60, 70, 78.9, 80], "k = 8 on it stays"),
    ],
)
def test_finding(scores, least):
    said = script.finding(part(scores))
    assert (
        f"From {least}" in said
        and f"(k = 0) the score is {scores[0]:.1f}" in said
        and "3.2 of 8" in said
    )


def test_without_an_error_no_k_is_named():
    assert "standard error" not in script.finding(part([50, 60], error=np.nan))


def test_the_smoke_run(tmp_path, capsys):
    flags = ["--preset", "smoke", "--out", str(tmp_path)]
    script.main([*flags, "--dry-run"])
    assert (
        "10 truncations to score, of 2 trainings: LoRA r = 8 (query,value), lr 0.001 seed=0; full"
        in capsys.readouterr().out
    )
    assert not list(tmp_path.iterdir())
    script.main(flags)
    rows = results.read(tmp_path / "svd_truncation.jsonl")
    whole = [row for row in rows if row["config"]["k"] == (row["config"]["rank"] or 16)]
    assert len(rows) == 5 + 5 and len(whole) == 2
    for row in whole:  # nothing is taken away: what the training itself scored
        assert row["metrics"]["test/accuracy"] == row["trained"]["test/accuracy"]
        assert row["metrics"]["delta/relative_error"] == 0 and row["metrics"][
            "delta/energy"
        ] == pytest.approx(1)
    sizes = {
        (row["config"]["method"], row["config"]["k"]): row["parameters"] for row in rows
    }
    assert sizes["lora", 2] == 2 * 2 * 2 * (16 + 16) and sizes["full", 2] == 2 * 2 * (
        4 * (16 + 16) + 2 * (16 + 32)
    )
    assert sizes["full", 0] == 0
    text = (tmp_path / "svd_truncation.md").read_text()
    assert (
        "1 or 2 of 12,288 suffices" in text
        and "16 (all)" in text
        and "standard error (" in text
    )
    verdicts = script.verdicts(rows)
    # Nothing is learnt, so that k = 0 does as well: nothing is said of k = 2.
    assert [verdict.verdict for verdict in verdicts] == [
        "within the error"
    ] * 2 and "full fine-tuning" in verdicts[1].published
    capsys.readouterr()
    script.main(
        [*flags, "--ks", "3"]
    )  # one more k of each: scored, and nothing is trained again
    said = capsys.readouterr().out
    assert "2 truncations to score" in said and "begins" not in said
    assert len(results.read(tmp_path / "svd_truncation.jsonl")) == len(rows) + 2
