"""Adapters in few bits for shipping: what is measured, by hand, and what is said of it."""

import random
from importlib import import_module
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from lora_jax import methods, results, tree
from lora_jax.experiment import run, schedule

SMOKE = ["--preset", "smoke", "--kinds", "nf4", "int8"]


@pytest.fixture(scope="module")
def script():
    return import_module("quantized_adapters")


@pytest.fixture(scope="module")
def trained(script):
    """The smoke preset's cell as training would leave it, with a random B."""
    (cell,) = schedule.resolved(script.cells(script.PRESETS["smoke"]))
    model, rng = run.adapt(cell)[0], np.random.default_rng(0)
    layers = {
        path: layer
        for path, layer in methods.adapters(model).items()
        if layer.parameters()
    }
    drawn = {
        path: 0.1 * rng.normal(size=layer.lora_b.shape)
        for path, layer in layers.items()
    }
    new = {
        f"{path}/lora_b": jnp.float32(b).at[:, 2:].set(0) for path, b in drawn.items()
    }  # the rest is padding
    return schedule.Trained(
        tree.replace(model, new), {"config": cell, "key": results.key(cell)}
    )


@pytest.fixture(scope="module")
def measured(script, trained):
    """Its rows, by how A and B are stored."""
    configs = [
        {**trained.row["config"], "stored": kind} for kind in ("none", "int8", "nf4")
    ]
    return {row["config"]["stored"]: row for row in script.evaluate(trained, configs)}


def test_its_adapters_are_those_of_the_other_studies_of_quantised_bases(script):
    ours = {results.key(cell) for cell in script.cells(script.Config())}
    merge, types = import_module("quantized_merge"), import_module("quantization")
    assert ours == {
        results.key(c)
        for c in merge.cells(merge.Config())
        if c["quantize"] == "nf4_double"
    }
    assert ours == {
        results.key(c)
        for c in types.loras(types.Config())
        if c["quantize"] == "nf4_double"
    }


class TestMeasures:
    def test_the_float_file_changes_nothing(self, measured):
        found = measured["none"]["metrics"]
        assert (found["delta/error"], found["logits/distance"], found["size/bits"]) == (
            0,
            0,
            32,
        )
        assert {
            value for name, value in found.items() if name.startswith("change/")
        } == {0}

    def test_fewer_bits_are_a_smaller_file_and_a_larger_error(self, measured):
        none, int8, nf4 = (
            measured[kind]["metrics"] for kind in ("none", "int8", "nf4")
        )
        assert (
            nf4["size/bits"] == 4.5 and int8["size/bits"] == 8 + 32 / 16
        )  # a scale for a row of 16
        assert none["size/file"] > int8["size/file"] > nf4["size/file"]
        assert 0 < int8["delta/error"] < 0.02 < nf4["delta/error"] < 0.2
        assert 0 < int8["logits/distance"] < nf4["logits/distance"]

    def test_idle_adapters_are_not_shipped_and_what_is_comes_back(
        self, script, trained
    ):
        assert "blocks/attention/key" in methods.adapters(trained.model)
        file, model = script.shipped(trained, "none")
        names = {name for name in safetensors.numpy.load(file) if "lora" in name}
        assert names == {
            f"blocks/attention/{layer}/lora_{part}"
            for layer in ("query", "value")
            for part in "ab"
        }
        for path, leaf in tree.leaves(model).items():
            if not path.startswith("blocks/") or "/base/" not in path:
                np.testing.assert_array_equal(leaf, tree.leaves(trained.model)[path])


def rows(scores: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each data type and seed; float32 is the first."""
    sizes = {
        "none": (300e3, 32),
        "int8": (80e3, 8.1),
        "fp4": (50e3, 4.5),
        "nf4": (50e3, 4.5),
        "nf4_double": (45e3, 4.1),
    }
    made = []
    for kind, each in scores.items():
        for seed, score in enumerate(each):
            config = {
                "model": "m",
                "data": "d",
                "targets": "query",
                "rank": 8,
                "quantize": "nf4",
                "stored": kind,
                "seed": seed,
            }
            found = {
                "test/accuracy": score,
                "change/accuracy": score - scores["none"][seed],
                "size/file": sizes[kind][0],
            }
            found |= {
                "size/bits": sizes[kind][1],
                "delta/error": 0.1,
                "logits/distance": 0.05,
            }
            made.append(
                {
                    "key": results.key(config),
                    "config": config,
                    "metrics": found,
                    "examples": {"test": 100},
                }
            )
    return made


SCORES = {
    "none": [0.80, 0.84],
    "nf4": [0.78, 0.83],
    "int8": [0.81, 0.84],
    "nf4_double": [0.70, 0.80],
}


class TestSaid:
    def test_the_table_has_means_errors_and_differences_of_the_same_adapter(
        self, script
    ):
        table = script.summary(rows(SCORES))
        assert list(table["stored"]) == ["float32", "int8", "nf4", "nf4_double"]
        nf4 = table.iloc[2]
        assert nf4["score"] == pytest.approx(80.5) and nf4[
            "score error"
        ] == pytest.approx(2.5)
        assert nf4["Δ"] == pytest.approx(-1.5) and nf4["Δ error"] == pytest.approx(0.5)
        line = next(
            line
            for line in script.shown(table).splitlines()
            if line.startswith("| nf4 ")
        )
        said = [cell.strip() for cell in line.strip("|").split("|")]
        assert said == [
            "nf4",
            "50.0",
            "16.7",
            "4.500",
            "10.00 ± 0.00",
            "5.00 ± 0.00",
            "80.5 ± 2.5",
            "-1.50 ± 0.50",
        ]

    def test_the_smallest_file_within_a_standard_error(self, script):
        assert script.finding(script.summary(rows(SCORES))) == (
            "**The smallest file that scores within a standard error of float32's 82.0 ± 2.0 % has A and B in nf4**: 50.0 instead "
            "of 300.0 kB, 80.5 %."
        )
        worse = {**SCORES, "nf4": [0.7, 0.7], "int8": [0.7, 0.7]}
        said = script.finding(script.summary(rows(worse)))
        assert (
            said
            == "**No smaller file scores within a standard error of float32's 82.0 ± 2.0 %.**"
        )

    def test_one_seed_of_a_metric_without_an_error(self, script):
        one = rows({"none": [0.8], "nf4": [0.8]})
        assert "± 4.0 %" in script.finding(script.summary(one)), (
            "of an accuracy it is the binomial one"
        )
        for row in one:
            row["metrics"] = {
                name.replace("accuracy", "f1"): value
                for name, value in row["metrics"].items()
            }
        assert script.finding(script.summary(one)).startswith(
            "One seed of this metric has no standard error"
        )

    def test_the_page_depends_on_the_rows_alone_and_not_on_their_order(
        self, script, tmp_path
    ):
        drawn = []
        for seed in (0, 1):
            shuffled = rows(SCORES)
            random.Random(seed).shuffle(shuffled)
            drawn.append(
                [
                    path.read_bytes()
                    for path in script.render(shuffled, tmp_path / str(seed))
                ]
            )
        assert len(drawn[0]) == 3 and drawn[0] == drawn[1]

    def test_of_a_run_that_was_killed_before_the_first_data_type_there_is_a_table(
        self, script, tmp_path
    ):
        assert [
            path.suffix for path in script.render(rows({"none": [0.8]}), tmp_path)
        ] == [".md", ".csv"]

    def test_bases_are_told_apart(self, script, tmp_path):
        plain = rows(SCORES)
        for row in plain:
            row["config"] = {**row["config"], "quantize": "none"}
            row["key"] = results.key(row["config"])
        script.render([*rows(SCORES), *plain], tmp_path)
        page = (tmp_path / "quantized_adapters.md").read_text()
        assert "on a base in nf4" in page and "on a base in full precision" in page
        assert len(pd.read_csv(tmp_path / "quantized_adapters.csv")) == 8


def test_what_makes_no_sense_is_refused_before_anything_is_trained(script, tmp_path):
    flags = [
        "--preset",
        "smoke",
        "--out",
        str(tmp_path),
        "--kinds",
        "nf3",
        "--method",
        "bitfit",
    ]
    with pytest.raises(ValueError) as error:
        script.main(flags)
    assert "kinds: expected some of nf4, " in str(
        error.value
    ) and "got 'nf3'; method: expected lora" in str(error.value)
    with pytest.raises(ValueError, match="kinds: expected at least one"):
        script.main([*flags[:5]])
    assert not list(tmp_path.iterdir())


def test_a_dry_run_stores_nothing(script, tmp_path, capsys):
    script.main([*SMOKE, "--out", str(tmp_path), "--dry-run"])
    assert "1 adapters, 1 of them to store" in capsys.readouterr().out and not list(
        tmp_path.iterdir()
    )
