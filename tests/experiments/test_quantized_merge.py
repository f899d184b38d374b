"""The means over layers and the advice on made-up rows, and what is refused."""

import pytest
import quantized_merge

from lora_jax.experiment import presets
from lora_jax.experiment.config import key

PLACES = tuple(quantized_merge.PLACES)


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


@pytest.fixture(scope="module")
def rows():
    distances = {"dequantized": 0.0, "original": 0.3, "requantized": 0.8}
    result = []
    for place, distance in distances.items():
        for seed, change in enumerate((-0.1, 0.1)):
            result.append(row(place, seed, distance + (change if distance else 0)))
    return result


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


def test_the_table_has_means_over_seeds_in_the_order_of_places(rows):
    table = quantized_merge.show(rows).data
    assert list(table["into"]) == list(PLACES)
    assert list(table["distance"]) == pytest.approx([0, 0.3, 0.8])
    assert list(table["same class, %"]) == [99.0] * 3


def test_the_place_where_the_logits_move_least_is_advised(rows):
    blocks = quantized_merge.show(rows).sections[0].blocks
    advice = [block for block in blocks if str(block).startswith("**Merge ")]
    assert "**Merge into dequantized weights**" in advice[0]


def test_the_exact_place_has_no_line_by_layer(rows):
    blocks = quantized_merge.show(rows).sections[0].blocks
    (table,) = [block for block in blocks if hasattr(block, "columns")]
    assert list(table["into"]) == ["original", "requantized"]
    assert list(table["layer 1"]) == ["0.30, 0.50", "0.80, 0.50"]


def test_errors_are_means_over_matrices_and_layers():
    layers = {
        "query": {"distance": [0.1, 0.3], "kept": [1.0, 0.8]},
        "value": {"distance": [0.5, 0.7], "kept": [0.6, 0.4]},
    }
    means = quantized_merge.mean_errors(layers)
    assert means == pytest.approx({"distance": 0.4, "kept": 0.7})
