"""The runs of each part, and the formats that are refused."""

import pytest
import quantization
from quantization import Options

from lora_jax.experiment import presets


def test_formats_that_do_not_exist_are_refused():
    message = "formats: expected some of fp32, bf16, int8.*, got nf5"
    with pytest.raises(ValueError, match=message):
        quantization.measurements(Options(formats=("nf5", "bf16")), presets.SMOKE, None)
    with pytest.raises(ValueError, match="got none"):
        quantization.measurements(Options(formats=()), presets.SMOKE, None)


def test_one_training_in_full_serves_all_formats():
    options = Options(formats=("bf16", "int8"), seeds=(0,))
    settings = []
    for item in quantization.measurements(options, presets.SMOKE, None):
        run = item.runs[0]
        name = item.settings["type"]
        settings.append((run.method, run.quantize, run.train.compute_dtype, name))
    assert settings == [
        ("full", "none", "auto", "bf16"),
        ("full", "none", "auto", "int8"),
        ("lora", "none", "bfloat16", "bf16"),
        ("lora", "int8", "auto", "int8"),
    ]


def test_full_fine_tuning_has_a_learning_rate_of_its_own():
    options, base = quantization.PRESETS["quick"]
    rates = {}
    for item in quantization.measurements(options, base, None):
        run = item.runs[0]
        rates.setdefault(run.method, set()).add(run.train.learning_rate)
    assert rates == {"full": {1e-4}, "lora": {1e-3}}
