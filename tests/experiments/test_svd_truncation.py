"""Truncation against numpy's float64, the rows' numbers by hand, and the smoke run's own training as the reference."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from lora_jax import methods, results, tree
from lora_jax.experiment import schedule
from lora_jax.methods.lora_from_delta import lora_from_delta

script: Any = import_module("svd_truncation")

SMOKE = script.PRESETS["smoke"]


def moved(model, seed=0):
    """The model with every leaf moved a little, adapters' scales apart."""
    rng = np.random.default_rng(seed)
    leaves = {
        path: leaf
        for path, leaf in tree.leaves(model).items()
        if not path.endswith("/scale")
    }
    return tree.replace(
        model,
        {
            p: leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape))
            for p, leaf in leaves.items()
        },
    )


@pytest.fixture(scope="module")
def full(tiny):
    return moved(tiny())


@pytest.fixture(scope="module")
def lora(tiny):
    """An adapted model that has learnt: B is no longer zero. Its key and output adapters are idle."""
    method = methods.lora("query,value", 3, pad=8, beside="query,key,value,output")
    return moved(method.adapt(jax.random.key(0), tiny()))


def best(old, new, k):
    """numpy's best approximation of rank k of each layer's difference."""
    u, s, vt = np.linalg.svd(np.asarray(new, np.float64) - old, full_matrices=False)
    return (u[..., :k] * s[..., None, :k]) @ vt[..., :k, :]


@pytest.mark.parametrize("k", [0, 1, 5, 16])
def test_full_fine_tuning_keeps_the_top_directions_and_everything_else(tiny, full, k):
    old, new = tree.leaves(tiny()), tree.leaves(full)
    got = tree.leaves(methods.merge(script.truncated(script.learnt(full, tiny()), k)))
    matrices = [
        path for path in old if path.startswith("blocks/") and path.endswith("kernel")
    ]
    assert len(matrices) == 6
    for path in old:
        wanted = (
            old[path] + best(old[path], new[path], k) if path in matrices else new[path]
        )
        np.testing.assert_allclose(got[path], wanted, atol=1e-5, err_msg=path)


def test_it_is_the_adapter_that_is_extracted(tiny, full):
    extracted = methods.merge(
        lora_from_delta(tiny(), full, targets=script.BLOCKS, rank=3, rest="tuned")
    )
    ours = methods.merge(script.truncated(script.learnt(full, tiny()), 3))
    for path, leaf in tree.leaves(extracted).items():
        np.testing.assert_allclose(
            tree.leaves(ours)[path], leaf, atol=1e-6, err_msg=path
        )


def test_of_a_lora_only_its_own_matrices_are_truncated(tiny, lora):
    whole = script.learnt(lora, tiny())
    assert whole.parts.keys() == {"blocks/attention/query", "blocks/attention/value"}
    assert all(
        part.s.shape == (2, 3) for part in whole.parts.values()
    )  # neither padding nor idle adapters
    kept, merged = (
        tree.leaves(methods.merge(model))
        for model in (script.truncated(whole, 3), lora)
    )
    for path, leaf in merged.items():
        np.testing.assert_allclose(kept[path], leaf, atol=1e-5, err_msg=path)
    none = tree.leaves(methods.merge(script.truncated(whole, 0)))
    for path, leaf in tree.leaves(methods.unload(lora)).items():
        assert none[path].tolist() == leaf.tolist(), path


def test_loss_by_hand():
    spectra = [
        np.array([[4.0, 3.0]]),
        np.array([[12.0, 0.0, 0.0]]),
    ]  # norms 5 and 12, together 13
    at = {k: script.loss(spectra, k) for k in (0, 1, 2, 3)}
    assert [at[k]["delta/relative_error"] for k in at] == pytest.approx(
        [1, 3 / 13, 0, 0]
    )
    assert [at[k]["delta/energy"] for k in at] == pytest.approx(
        [0, (16 / 25 + 1) / 2, 1, 1]
    )
    p = np.array([4, 3]) / 7
    assert at[1]["delta/effective_rank"] == pytest.approx(
        (np.exp(-(p * np.log(p)).sum()) + 1) / 2, rel=1e-6
    )


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
