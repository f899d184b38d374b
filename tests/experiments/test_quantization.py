"""The formats that are refused, and the papers' claims on made-up scores."""

import pytest
import quantization

from lora_jax.experiment import presets
from lora_jax.experiment.config import key
from lora_jax.results import claims


def row(part, name, seed, accuracy):
    config = presets.SMOKE.changed(seed=seed).flat() | {"part": part, "type": name}
    return {
        "key": key(config),
        "config": config,
        "metrics": {"test/accuracy": accuracy},
        "examples": {"test": 100},
    }


def test_formats_that_do_not_exist_are_refused():
    message = "formats: expected some of fp32, bf16, int8.*, got nf5"
    options = quantization.Options(formats=("nf5", "bf16"))
    with pytest.raises(ValueError, match=message):
        quantization.measurements(options, presets.SMOKE, None)
    with pytest.raises(ValueError, match="got none"):
        quantization.measurements(quantization.Options(formats=()), presets.SMOKE, None)


def test_claims_hold_a_difference_against_its_error():
    rows = []
    for seed, (low, high) in enumerate([(0.70, 0.80), (0.71, 0.81)]):
        rows.append(row("alone", "fp4", seed, low))
        rows.append(row("alone", "nf4-double", seed, high))
        rows.append(row("lora", "bf16", seed, high))
        rows.append(row("lora", "nf4-double", seed, low))
    verdicts = {}
    for claim in quantization.show(rows).claims:
        verdicts[claim.statement] = claim.verdict
    assert verdicts == {
        "without training NF4 + DQ is better than FP4": claims.REPRODUCED,
        "LoRA on NF4 + DQ is as good as on BF16": claims.NOT_REPRODUCED,
    }


def test_full_fine_tuning_has_a_learning_rate_of_its_own():
    options, base = quantization.PRESETS["quick"]
    rates = {}
    for item in quantization.measurements(options, base, None):
        run = item.runs[0]
        rates.setdefault(run.method, set()).add(run.train.learning_rate)
    assert rates == {"full": {1e-4}, "lora": {1e-3}}
