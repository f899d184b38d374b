"""What is merged where, what a section has, and what is refused."""

import pytest
import quantized_merge

from lora_jax.experiment import presets
from lora_jax.experiment.identity import key

PLACES = ("dequantized", "original", "requantized")


def row(place, seed, distance):
    run = presets.SMOKE.changed(quantize="nf4", seed=seed)
    config = run.flat() | {"into": place}
    metrics = {"test/accuracy": 0.8, "unmerged/accuracy": 0.81}
    metrics |= {"matrices/distance": distance, "matrices/kept": 1 - distance}
    metrics |= {"logits/distance": distance, "logits/largest": 0.5}
    metrics |= {"logits/same_class": 0.99, "size/bits": 32}
    layer = {"distance": [distance] * 2, "kept": [0.5] * 2}
    return {
        "key": key(config),
        "config": config,
        "metrics": metrics,
        "layers": {"blocks/attention/query": layer},
        "examples": {"test": 100},
    }


def test_formats_that_do_not_exist_are_refused():
    options = quantized_merge.Options(formats=("nf3",))
    with pytest.raises(ValueError, match=r"formats: expected some of nf4, .*got nf3"):
        quantized_merge.measurements(options, presets.SMOKE, None)


def test_the_method_is_no_option(capsys):
    with pytest.raises(SystemExit):
        quantized_merge.EXPERIMENT.main(["--preset", "smoke", "--method", "full"])
    assert "--method" in capsys.readouterr().err


def test_each_format_and_seed_is_merged_in_three_places():
    options = quantized_merge.Options(formats=("nf4", "int8"), seeds=(0, 1))
    items = quantized_merge.measurements(options, presets.SMOKE, None)
    assert [item.settings["into"] for item in items] == list(PLACES) * 4


def test_a_group_has_both_tables_and_the_advice():
    report = quantized_merge.show([row("original", 0, 0.3), row("original", 1, 0.5)])
    (section,) = report.sections
    _, table, advice, _, by_layer, _ = section.blocks
    assert "| original |    0.400 |" in table
    assert advice.startswith("**Merge into original weights**")
    assert list(by_layer["layer 1"]) == ["0.40, 0.50"]
