"""The page on steps that fit a machine, from rows written by hand."""

from copy import deepcopy

import pytest

from lora_jax.paper.qlora import MB
from lora_jax.results import claims
from lora_jax.results.pages import fit as page
from lora_jax.results.pages import fit_papers

GB = 10**9

STEP = {
    "model": "llama-65b",
    "method": "lora",
    "targets": "query,value",
    "rank": 64,
    "quantize": "nf4_double",
    "dtype": "bfloat16",
    "compute": "bfloat16",
    "batch": 1,
    "length": 512,
    "recompute": "block",
    "machine": "h100",
    "mesh": "",
    "shard_base": False,
    "adapter_dtype": "float32",
}
METRICS = {
    "step/devices": 1.0,
    "bytes/base": 34 * GB,
    "bytes/adapters": 3 * GB,
    "bytes/optimizer": 6 * GB,
    "bytes/temporary": 2 * GB,
    "bytes/total": 45 * GB,
    "bytes/device": 80 * GB,
    "step/fits": 1.0,
    "step/operations": 5e12,
    "step/accessed": 4 * GB,
    "floor/products": 0.005,
    "floor/memory": 0.004,
    "floor/seconds": 0.005,
}
ROW = {
    "config": STEP,
    "metrics": METRICS,
    "compiler": "a compiler 1.0",
    "source": "a data sheet",
    "collectives": {},
    "largest": [{"shape": "f32[9]", "bytes": 36 * 10**7, "operation": "jit(f)/dot"}],
    "provenance": {"versions": {"jax": "0.10"}},
}


def row(**changes):
    """The row with other settings and metrics."""
    other = deepcopy(ROW)
    for name, value in changes.items():
        # `bytes__total` stands for the metric `bytes/total`.
        part = "config" if name in STEP else "metrics"
        other[part][name.replace("__", "/")] = value
    return other


MANY = row(model="gpt3-175b", machine="h100x16", mesh="data=16", step__devices=16.0)
MANY["collectives"] = {"all-gather": {"count": 7, "bytes": 3 * GB}}


def test_a_line_has_sizes_in_gb_and_the_floor_in_ms():
    (line,) = page.step_table([ROW]).to_dict("records")
    assert line["method"] == "lora r=64 query,value"
    assert (line["stored"], line["rows x tokens"]) == ("nf4_double", "1 x 512")
    assert (line["base"], line["total"], line["memory"]) == (34, 45, 80)
    assert (line["TFLOP"], line["moved, GB"], line["floor, ms"]) == (5, 4, 5)
    assert (line["fits"], line["bound by"]) == ("yes", "products")


def test_a_step_bound_by_memory_and_one_without_a_peak():
    slow = row(floor__memory=0.009)
    plain = row(quantize="none", machine="cpu")
    for name in ("products", "memory", "seconds"):
        del plain["metrics"][f"floor/{name}"]
    bound = page.step_table([slow, plain])["bound by"]
    assert list(bound) == ["memory", ""]
    assert page.step_table([plain])["stored"].item() == "bfloat16"


def test_rows_are_ordered_whatever_their_order():
    rows = [MANY, row(machine="v5e-1"), ROW]
    machines = [line["config"]["machine"] for line in page.ordered(rows)]
    assert machines == ["h100", "v5e-1", "h100x16"]
    both = [page.report(order, "").data for order in (rows, rows[::-1])]
    assert both[0].equals(both[1])


def test_messages_are_listed_by_kind():
    titles = [section.title for section in page.report([MANY], "").sections]
    assert "Many devices, of each" in titles
    text = page.message_text([MANY])
    assert "h100x16, data=16" in text
    assert "all-gather" in text and "3.00" in text
    assert page.message_text([ROW]).startswith("None")


def test_figure_6_is_held_against_its_labels():
    (line,) = fit_papers.figure6_table([ROW, MANY]).to_dict("records")
    assert (line["model"], line["bar"], line["within"]) == ("LLaMA 65B", 45, "yes")
    assert line["total"] == pytest.approx(45 * GB / (1000 * MB))
    beyond = row(bytes__total=48 * GB)
    (line,) = fit_papers.figure6_table([beyond]).to_dict("records")
    assert line["within"] == "no"
    assert fit_papers.is_beyond(beyond) and not fit_papers.is_beyond(ROW)


def test_the_dtype_of_adapters_tells_steps_apart():
    old = deepcopy(ROW)
    del old["config"]["adapter_dtype"]
    narrow = row(adapter_dtype="bfloat16")
    methods = list(page.step_table([old, ROW, narrow])["method"])
    assert methods == ["lora r=64 query,value"] * 2 + [
        "lora r=64 query,value in bfloat16"
    ]
    lines = fit_papers.figure6_table([old, narrow])
    assert list(lines["stored as"]) == ["float32", "bfloat16"]


def test_verdicts_on_qlora():
    figure, text = fit_papers.memory_claims([ROW])
    assert figure.statement == "LLaMA 65B in all: 45.0 GB or less"
    assert figure.evidence == "42.9 GB with float32 adapters; compiled for one H100"
    assert figure.verdict == text.verdict == claims.EQUAL
    assert text.statement == "memory, 65B, QLoRA: < 48 GB (Q2)"
    assert text.evidence == "41.9 GiB with float32 adapters; compiled for one H100"
    # Within the card, but not within the bar.
    beyond = row(bytes__total=49 * GB)
    figure, text = fit_papers.memory_claims([beyond])
    assert (figure.verdict, text.verdict) == (claims.UNEXPLAINED, claims.EQUAL)
    # With the paper's adapters it is, in whatever order the rows are.
    narrow = row(adapter_dtype="bfloat16", bytes__total=46 * GB)
    for rows in ([beyond, narrow], [narrow, beyond]):
        figure, text = fit_papers.memory_claims(rows)
        assert (figure.verdict, text.verdict) == (claims.EQUAL, claims.EQUAL)
        assert figure.evidence == (
            "43.9 GB with bfloat16 adapters, 46.7 GB with float32 adapters; "
            "compiled for one H100"
        )
    figure, text = fit_papers.memory_claims([row(bytes__total=52 * GB)])
    assert figure.verdict == text.verdict == claims.UNEXPLAINED
    # Of another machine, or another length, nothing is claimed.
    others = [row(machine="v5e-1"), row(length=1024), row(batch=2)]
    assert fit_papers.memory_claims(others) == []


def test_verdicts_on_gpt3_are_of_what_all_devices_store():
    lora = deepcopy(MANY)
    lora["metrics"] |= {"bytes/base": 22 * GB, "bytes/adapters": 0}
    lora["metrics"]["bytes/optimizer"] = 0
    (claim,) = fit_papers.memory_claims([lora])
    assert claim.evidence == (
        "352 GB on 16 devices, each with embeddings; 0 of it are moments"
    )
    assert claim.verdict == claims.NEAR
    full = deepcopy(lora)
    full["config"] |= {"method": "full", "targets": "", "rank": 0}
    full["metrics"]["bytes/base"] = 75 * GB
    (claim,) = fit_papers.memory_claims([full])
    assert claim.statement == "memory, full: 1.2 TB (L3)"
    assert (claim.evidence[:6], claim.verdict) == ("1.2 TB", claims.EQUAL)


def test_what_does_not_fit_is_told_with_its_largest_results():
    full = row(step__fits=0.0)
    (line,) = page.largest_lines([ROW, full])
    assert line.startswith("- llama-65b, lora r=64 query,value, nf4_double, 1 x 512")
    assert line.endswith("on h100: `f32[9]` 0.36 GB (dot)")
    full["largest"] = []
    full["refused"] = "RESOURCE_EXHAUSTED"
    (line,) = page.largest_lines([full])
    assert line.endswith("RESOURCE_EXHAUSTED")


def test_a_refused_step_has_a_line_and_no_bar():
    refused = row(step__fits=0.0)
    for name in ("bytes/temporary", "bytes/total", "step/accessed", "floor/seconds"):
        del refused["metrics"][name]
    refused["refused"] = "RESOURCE_EXHAUSTED"
    report = page.report([refused], "")
    assert report.data["total"].isna().all()
    assert report.figures == {}
    assert list(page.report([ROW], "").figures) == [""]


def test_the_compiler_of_each_machine_is_named():
    assert page.compiler_lines([ROW, ROW, row(machine="cpu")]) == [
        "- h100: jax 0.10, a compiler 1.0; a data sheet",
        "- cpu: jax 0.10, a compiler 1.0; a data sheet",
    ]
