"""Adapters in few bits: what is measured, by hand, and what is said of it."""

import jax.numpy as jnp
import numpy as np
import pytest
import quantization
import quantized_adapters
import quantized_merge
import safetensors.numpy

from lora_jax import methods, tree
from lora_jax.experiment import check, presets
from lora_jax.experiment.config import key
from lora_jax.experiment.run import Trained
from lora_jax.experiment.workbench import Workbenches

EXPERIMENT = quantized_adapters.EXPERIMENT
SIZES = {
    "none": (300e3, 32),
    "int8": (80e3, 8.1),
    "nf4": (50e3, 4.5),
    "nf4_double": (45e3, 4.1),
}
SCORES = {
    "none": (0.80, 0.84),
    "nf4": (0.78, 0.83),
    "int8": (0.81, 0.84),
    "nf4_double": (0.70, 0.80),
}


@pytest.fixture(scope="module")
def trained():
    """The smoke preset's run as training would leave it, with a random B."""
    _, base = quantized_adapters.PRESETS["smoke"]
    benches = Workbenches()
    (run,) = check.resolved([base], benches)
    bench = benches.bench(run)
    model, _ = bench.adapted()
    rng = np.random.default_rng(0)
    values = {}
    for path, layer in methods.adapters(model).items():
        if layer.parameters():
            b = jnp.float32(0.1 * rng.normal(size=layer.lora_b.shape))
            # What is beyond the rank is padding.
            values[f"{path}/lora_b"] = b.at[:, run.options["rank"] :].set(0)
    config = run.flat()
    row = {"config": config, "key": key(config)}
    return Trained(tree.replace(model, values), row, bench)


@pytest.fixture(scope="module")
def metrics(trained):
    """What is measured, by the format of A and B."""
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

    def test_only_trained_factors_are_shipped_and_they_come_back(self, trained):
        file, model = quantized_adapters.shipped(*trained, "none")
        names = {name for name in safetensors.numpy.load(file) if "lora" in name}
        expected = set()
        for layer in ("query", "value"):
            for part in "ab":
                expected.add(f"blocks/attention/{layer}/lora_{part}")
        assert names == expected
        leaves = tree.leaves(trained.model)
        for path, leaf in tree.leaves(model).items():
            if "/base/" not in path:
                np.testing.assert_array_equal(leaf, leaves[path])


def rows(scores, quantize="nf4"):
    """A row for each format and seed; float32 is the first."""
    result = []
    for stored, values in scores.items():
        for seed, score in enumerate(values):
            run = presets.SMOKE.changed(quantize=quantize, seed=seed)
            config = run.flat() | {"stored": stored}
            size, bits = SIZES[stored]
            row = {"key": key(config), "config": config, "examples": {"test": 100}}
            row["metrics"] = {
                "test/accuracy": score,
                "change/accuracy": score - scores["none"][seed],
                "size/file": size,
                "size/bits": bits,
                "delta/error": 0.1,
                "logits/distance": 0.05,
            }
            result.append(row)
    return result


def advice(scores):
    return quantized_adapters.advice(quantized_adapters.show(rows(scores)).data)


class TestPage:
    def test_the_table_has_means_errors_and_differences_of_the_same_adapter(self):
        table = quantized_adapters.show(rows(SCORES)).data
        assert list(table["stored"]) == ["float32", "int8", "nf4", "nf4_double"]
        nf4 = table.iloc[2]
        names = ["score", "score error", "Δ", "Δ error"]
        assert list(nf4[names]) == pytest.approx([80.5, 2.5, -1.5, 0.5])
        lines = quantized_adapters.text_table(table).splitlines()
        (line,) = [line for line in lines if line.startswith("| nf4 ")]
        assert [cell.strip() for cell in line.strip("|").split("|")] == [
            "nf4",
            "50.0",
            "16.7",
            "4.500",
            "10.00 ± 0.00",
            "5.00 ± 0.00",
            "80.5 ± 2.5",
            "-1.50 ± 0.50",
        ]

    def test_the_smallest_file_within_a_standard_error_is_advised(self):
        assert advice(SCORES) == (
            "**The smallest file that scores within a standard error of float32's 82.0 "
            "± 2.0 % has A and B in nf4**: 50.0 instead of 300.0 kB, 80.5 %."
        )
        worse = {**SCORES, "nf4": (0.7, 0.7), "int8": (0.7, 0.7)}
        assert advice(worse) == (
            "**No smaller file scores within a standard error of float32's 82.0 ± 2.0 "
            "%.**"
        )

    def test_one_seed_of_an_accuracy_has_the_binomial_error(self):
        assert "± 4.0 %" in advice({"none": (0.8,), "nf4": (0.8,)})

    def test_one_seed_of_a_metric_without_an_error(self):
        one = rows({"none": (0.8,), "nf4": (0.8,)})
        for row in one:
            metrics = row["metrics"]
            for split in ("test", "change"):
                metrics[f"{split}/f1"] = metrics.pop(f"{split}/accuracy")
        table = quantized_adapters.show(one).data
        text = quantized_adapters.advice(table)
        assert text.startswith("One seed of this metric has no standard error")

    def test_the_order_of_rows_changes_nothing(self):
        report = quantized_adapters.show(rows(SCORES))
        again = quantized_adapters.show(rows(SCORES)[::-1])
        assert again.data.equals(report.data)

    def test_float32_alone_has_a_table_and_no_figure(self):
        report = quantized_adapters.show(rows({"none": (0.8,)}))
        assert len(report.data) == 1
        assert report.figures == {}

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
