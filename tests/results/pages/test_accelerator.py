"""The page on a device's own numbers, from rows written by hand."""

import math
from copy import deepcopy

import pytest

from lora_jax.results.pages import accelerator as page
from lora_jax.results.pages.accelerator_aims import aim_table
from lora_jax.results.pages.accelerator_needs import needs
from lora_jax.results.report import markdown
from lora_jax.results.row_fields import problems
from tests.results.pages.test_fit import STEP

GB = 10**9
LLAMA = {**STEP, "model": "llama-8b", "batch": 8, "length": 1024, "quantize": "none"}
PROVENANCE = {
    "versions": {"jax": "0.11"},
    "machine": {"cpu": "EPYC", "device": "NVIDIA H100 80GB HBM3"},
}
DEVICE = "NVIDIA H100 80GB HBM3"
PREDICTION = {
    "config": {"part": "predictions", **LLAMA},
    "metrics": {
        "step/fits": 1.0,
        # Three quarters of the operations are counted, and memory is not the bound.
        "step/operations": 4e14,
        "step/nominal_operations": 3e14,
        "bytes/total": 50 * GB,
        "floor/products": 0.4,
        "floor/memory": 0.1,
        "floor/seconds": 0.4,
    },
    "compiler": "jax-cuda12-plugin 0.10",
    "source": "a data sheet",
    "provenance": PROVENANCE,
}
MEASURED = {
    "config": {"part": "steps", "framework": "lora_jax", "times": 5, **LLAMA},
    "metrics": {
        "step/seconds": 0.5,
        "step/tokens_per_second": 16_384.0,
        "step/nominal_operations": 3e14,
        "step/share_of_peak": 0.6,
        "bytes/before": 20 * GB,
        "bytes/peak": 54 * GB,
    },
    "seconds": [0.5],
    "device": DEVICE,
    "provenance": PROVENANCE,
}
PEER = deepcopy(MEASURED)
PEER["config"] |= {"part": "peers", "framework": "peft"}
PEER["metrics"] |= {"step/seconds": 0.8, "bytes/peak": 60 * GB}
PEER |= {"torch": "2.11", "recomputed": "block"}
POPULATION = {
    "config": {
        "part": "population",
        "model": "minilm-l6",
        "data": "rotten-tomatoes",
        "sets": ["query", "query,value", "query,key,value,output"],
        "ranks": [1, 2, 4, 8, 64],
        "seeds": 5,
    },
    "metrics": {
        "population/cells": 75.0,
        "population/diverged": 0.0,
        "population/seconds": 45.0,
        "population/steps": 189.0,
        "population/tokens_per_second": 1e6,
    },
    "weights": "random",
    "device": DEVICE,
    "provenance": PROVENANCE,
}
TESTS = {
    "config": {"part": "tests", "group": "quantization"},
    "metrics": {"tests/passed": 70.0, "tests/failed": 1.0, "tests/skipped": 2.0},
    "failed": ["tests.quant.test_value.test_rows"],
    "seconds": 20.0,
    "provenance": PROVENANCE,
}
ROWS = [PREDICTION, MEASURED, PEER, POPULATION, TESTS]


def changed(row, place="metrics", **changes):
    """The row with other values; `step__seconds` stands for the metric `step/seconds`."""
    other = deepcopy(row)
    for name, value in changes.items():
        other[place][name.replace("__", "/")] = value
    return other


def by_part(*rows):
    return page._by_part(rows)


def reached(*rows):
    """Whether each aim was reached, and what is farthest from it."""
    table = aim_table(by_part(*rows))
    return list(
        table[["reached", "farthest from it"]].itertuples(index=False, name=None)
    )


def test_a_step_stands_in_one_line_whoever_predicted_or_measured_it():
    (line,) = page.step_table(by_part(*ROWS)).to_dict("records")
    assert (line["model"], line["rows x tokens"]) == ("llama-8b", "8 x 1024")
    assert (line["predicted, GB"], line["floor, ms"]) == (50, 400)
    # At the floor three of four operations are counted.
    assert line["at most, %"] == pytest.approx(75)
    assert (line["step, ms"], line["tokens/s"]) == (500, 16_384)
    assert line["of peak, %"] == pytest.approx(60)
    assert (line["memory, GB"], line["peft, ms"], line["peft, GB"]) == (54, 800, 60)
    assert line["step / peft"] == pytest.approx(0.5 / 0.8)
    assert line["peft remat"] == "block"


def test_without_a_gpu_the_predictions_are_marked_as_such():
    (section, *_) = page.report([PREDICTION], "").sections
    assert section.blocks[0].startswith("\n**Nothing in this table was measured")
    (line,) = page.step_table(by_part(PREDICTION)).to_dict("records")
    assert math.isnan(line["step, ms"]) and math.isnan(line["step / peft"])
    (section, *_) = page.report([PREDICTION, MEASURED], "").sections
    assert not section.blocks[0].startswith("\n**Nothing")


def test_without_a_published_peak_there_is_no_floor():
    plain = deepcopy(PREDICTION)
    for name in ("products", "memory", "seconds"):
        del plain["metrics"][f"floor/{name}"]
    (line,) = page.step_table(by_part(plain)).to_dict("records")
    assert math.isnan(line["floor, ms"]) and math.isnan(line["at most, %"])


def test_the_page_does_not_depend_on_the_order_of_rows():
    other = changed(PREDICTION, "config", model="bert-base")
    pages = [page.report(rows, "") for rows in ([*ROWS, other], [other, *ROWS[::-1]])]
    assert pages[0].data.equals(pages[1].data)
    assert markdown(pages[0]) == markdown(pages[1])


def test_a_page_is_drawn_from_each_row_alone():
    for row in ROWS:
        report = page.report([row], "")
        assert report.sections[-1].title == "Devices and compilers"


def test_random_weights_and_failed_tests_are_told():
    text = markdown(page.report(ROWS, ""))
    assert "3 x 5" in text and "45 s" in text
    assert "both are random ones of the same sizes" in text
    assert "`tests.quant.test_value.test_rows`" in text
    assert f"peers: on {DEVICE}, torch 2.11, EPYC" in text
    pretrained = {**POPULATION, "weights": "pretrained"}
    assert "random" not in markdown(page.report([pretrained], ""))
    diverged = changed(POPULATION, population__diverged=2.0)
    assert "2 cells diverged." in markdown(page.report([diverged], ""))


def test_what_was_not_measured_has_no_verdict():
    assert reached(PREDICTION) == [("", "not measured")] * 5


def test_the_share_of_the_peak_is_that_of_the_slowest_llama():
    slow = changed(MEASURED, step__share_of_peak=0.45)
    slow["config"]["length"] = 2048
    assert reached(MEASURED)[0] == ("yes", "60.0 %, llama-8b, 8 x 1024")
    assert reached(slow, MEASURED)[0] == ("no", "45.0 %, llama-8b, 8 x 2048")
    encoder = changed(slow, "config", model="bert-base")
    assert reached(encoder)[0] == ("", "not measured")


@pytest.mark.parametrize(("seconds", "verdict"), [(0.52, "yes"), (0.53, "no")])
def test_a_quantized_base_is_held_against_that_in_bfloat16(seconds, verdict):
    quantized = changed(MEASURED, step__seconds=seconds)
    quantized["config"]["quantize"] = "nf4"
    assert reached(quantized)[1] == ("", "not measured")
    assert reached(MEASURED, quantized)[1][0] == verdict


def test_a_population_of_all_cells_is_to_take_a_minute():
    assert reached(POPULATION)[2] == ("yes", "45 s with random weights")
    assert reached(changed(POPULATION, population__seconds=61.0))[2][0] == "no"
    few = changed(POPULATION, population__cells=4.0)
    assert reached(few)[2] == ("", "not measured")


def test_memory_is_held_against_the_prediction():
    assert reached(PREDICTION, MEASURED)[3] == (
        "yes",
        "54.00 of 50.00 GB, llama-8b, 8 x 1024",
    )
    assert reached(PREDICTION, changed(MEASURED, bytes__peak=56 * GB))[3][0] == "no"
    assert reached(PREDICTION, changed(MEASURED, bytes__peak=44 * GB))[3][0] == "no"
    # The most was in use before the first step.
    before = changed(MEASURED, bytes__before=54 * GB)
    assert reached(PREDICTION, before)[3] == ("", "not measured")


def test_one_failed_test_is_too_many():
    assert reached(TESTS)[4] == ("no", "1 failed, 70 passed")
    assert reached(changed(TESTS, tests__failed=0.0))[4][0] == "yes"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_that_lacks_what_the_page_reads_is_named(row):
    assert problems(row, needs(row)) == []
    name = next(iter(row["metrics"]))
    broken = deepcopy(row)
    broken["metrics"][name] = "fast"
    (problem,) = problems(broken, needs(broken))
    assert problem.startswith(f"metrics.{name}: expected")
    unknown = changed(row, "config", part="other")
    assert any(
        text.startswith("config.part") for text in problems(unknown, needs(unknown))
    )
