"""The page on GPT-3's memory, from round numbers, and the numbers in its text."""

import pytest

from lora_jax import accounting
from lora_jax.results import claims
from lora_jax.results.pages import gpt3_memory as page


def stored(full=1.2e12, lora=3.5e11, checkpoint=3.5e11):
    return {
        "full/total": full,
        "full/parameters": 175e9,
        "full/checkpoint": checkpoint,
        "lora/total": lora,
        "lora/parameters": 2e7,
        "lora/checkpoint": 3.5e7,
    }


def test_rows_are_chosen_by_settings():
    rows = []
    for name, precision in (("a", "FP16"), ("b", "FP16"), ("a", "FP32")):
        config = {"architecture": name, "precision": precision}
        rows.append({"config": config, "metrics": {"of": name + precision}})
    by_precision = page.stored_bytes(rows, "precision", architecture="a")
    assert by_precision == {"FP16": {"of": "aFP16"}, "FP32": {"of": "aFP32"}}


def test_sizes_by_precision_in_the_order_of_bytes():
    bytes_each = {"FP16": 8, "missing": 12, "FP32": 16}
    table = page.precision_table({"FP32": stored(), "FP16": stored()}, bytes_each)
    assert list(table.precision) == ["FP16", "FP32"]
    line = table.iloc[0]
    assert line["bytes each"] == 8
    assert line["full, TB"] == 1.2
    assert line["LoRA, GB"] == 350
    assert line["full / LoRA"] == pytest.approx(3.43, abs=0.005)


def test_sizes_by_architecture():
    table = page.size_table({"b": stored(), "a": stored()}, order=["a", "b"])
    assert list(table.model) == ["a", "b"]
    assert table["parameters"].iloc[0] == 175_000_000_000
    assert table["checkpoint, LoRA, MB"].iloc[0] == 35
    assert page.size_table({}, order=["a"]).empty


def verdicts(by_precision):
    lines = page.verdict_table(by_precision, usual="FP16").to_dict("records")
    return {line.pop("claim"): line for line in lines}


def test_a_claim_takes_the_nearest_precision_only_if_it_depends_on_it():
    other = stored(full=2e12, checkpoint=7e11)
    by_claim = verdicts({"FP16": other, "exact": stored()})
    assert by_claim["L3"]["precision"] == "exact"
    assert by_claim["L3"]["verdict"] == claims.FITTED
    assert by_claim["L3"]["ours"] == by_claim["L3"]["paper"] == "1.2 TB"
    assert by_claim["L5"]["precision"] == "FP16"
    assert by_claim["L5"]["ours"] == "700 GB"
    assert by_claim["L5"]["verdict"] == claims.UNEXPLAINED


def test_a_share_is_printed_with_two_decimals():
    by_claim = verdicts({"FP16": stored(full=1e12, lora=0.33e12)})
    assert by_claim["L15"]["paper"] == by_claim["L15"]["ours"] == "0.67"


def test_verdicts_are_claims():
    table = page.verdict_table({"FP16": stored()}, usual="FP16")
    claim = page.memory_claims(table)[3]
    assert claim.statement == "memory, LoRA: 350 GB (L4)"
    assert (claim.evidence, claim.verdict) == ("350 GB", claims.EQUAL)


def test_without_the_usual_precision_nothing_is_claimed():
    table = page.verdict_table({"FP32": stored()}, usual="FP16")
    assert table.empty
    assert page.memory_claims(table) == []


def test_what_the_page_says_of_gpt3():
    text = " ".join(page.EXPLANATION.split())
    parameters = accounting.total_parameters("gpt3-175b")
    assert f"{1.2e12 / parameters:.1f} bytes" in text
    assert f"are {6 * parameters / 1e12:.2f} TB" in text
    assert f"are {8 * parameters / 1e12:.2f} TB" in text
    assert f"{8 * parameters / 2**40:.2f} TiB" in text
    checkpoint = 2 * 18_874_368
    assert f"{checkpoint / 1e6:.1f} MB or {checkpoint / 2**20:.1f} MiB" in text
