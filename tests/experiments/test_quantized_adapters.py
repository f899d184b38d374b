"""Adapters in few bits: what is measured, by hand, and what is said of it."""

import pytest
import quantization
import quantized_adapters
import quantized_merge

from lora_jax.experiment import presets
from lora_jax.experiment.identity import key
from tests.experiment.trained_runs import with_random_b
from tests.results.pages.stored_adapters import SCORES, stored_metrics

EXPERIMENT = quantized_adapters.EXPERIMENT


@pytest.fixture(scope="module")
def metrics():
    """What is measured, by the format of A and B."""
    _, base = quantized_adapters.PRESETS["smoke"]
    trained = with_random_b(base)
    settings = [{"stored": name} for name in ("none", "int8", "nf4")]
    rows = quantized_adapters.measure((trained,), settings)
    result = {}
    for setting, row in zip(settings, rows, strict=True):
        result[setting["stored"]] = row["metrics"]
    return result


class TestMeasure:
    def test_the_float_file_changes_nothing(self, metrics):
        stored = metrics["none"]
        assert stored["delta/error"] == 0
        assert stored["logits/distance"] == 0
        assert stored["size/bits"] == 32
        assert stored["change/accuracy"] == 0

    def test_fewer_bits_are_a_smaller_file_and_a_larger_error(self, metrics):
        none, int8, nf4 = metrics.values()
        assert nf4["size/bits"] == 4.5
        assert int8["size/bits"] == 8 + 32 / 16  # a scale for a row of 16
        assert none["size/file"] > int8["size/file"] > nf4["size/file"]
        assert 0 < int8["delta/error"] < 0.02 < nf4["delta/error"] < 0.2
        assert 0 < int8["logits/distance"] < nf4["logits/distance"]


def rows(scores, quantize="nf4"):
    """A row for each format and seed; float32 is the first."""
    result = []
    for stored, values in scores.items():
        for seed, score in enumerate(values):
            run = presets.SMOKE.changed(quantize=quantize, seed=seed)
            config = run.flat() | {"stored": stored}
            row = {"key": key(config), "config": config, "examples": {"test": 100}}
            difference = score - scores["none"][seed]
            row["metrics"] = stored_metrics(stored, score, difference)
            result.append(row)
    return result


class TestPage:
    def test_the_order_of_rows_changes_nothing(self):
        report = quantized_adapters.show(rows(SCORES))
        again = quantized_adapters.show(rows(SCORES)[::-1])
        assert again.data.equals(report.data)

    def test_bases_are_told_apart(self):
        both = rows(SCORES) + rows(SCORES, quantize="none")
        report = quantized_adapters.show(both)
        titles = " ".join(section.title for section in report.sections)
        assert "quantize nf4" in titles
        assert "quantize none" in titles
        assert len(report.data) == 8


def keys(script):
    """The runs of the quick preset on a base in nf4_double."""
    options, base = script.PRESETS["quick"]
    result = set()
    for item in script.measurements(options, base.changed(compute="bfloat16"), None):
        run = item.runs[0].changed(compute="bfloat16")
        if run.quantize == "nf4_double":
            result.add(key(run.flat()))
    return result


def test_its_adapters_are_those_of_the_other_studies_of_quantized_bases():
    ours = keys(quantized_adapters)
    assert len(ours) == 3
    assert ours == keys(quantized_merge) == keys(quantization)


def test_what_makes_no_sense_is_refused_before_anything_is_trained(tmp_path):
    words = ["--preset", "smoke", "--out", str(tmp_path), "--formats"]
    with pytest.raises(ValueError, match=r"formats: expected some of nf4, .*got nf3"):
        EXPERIMENT.main([*words, "nf3"])
    with pytest.raises(ValueError, match="got none"):
        EXPERIMENT.main(words)
    with pytest.raises(SystemExit):
        EXPERIMENT.main([*words[:-1], "--method", "bitfit"])
    assert not list(tmp_path.iterdir())
