"""A step to be timed by its names; a peer that is not installed."""

from typing import Any

import pytest

from lora_jax.accounting import named_step as steps

LORA: dict[str, Any] = {
    "framework": "lora_jax",
    "model": "tiny",
    "method": "lora",
    "targets": "query,value",
    "rank": 2,
    "batch": 4,
    "length": 16,
    "compute": "float32",
}


def test_the_step_is_that_of_the_method_and_runs():
    lora = steps.named_step(LORA)
    full = steps.named_step({**LORA, "method": "full"})
    lora.run()
    assert 0 < lora.sizes["checkpoint"] < full.sizes["checkpoint"]


@pytest.mark.parametrize(
    ("method", "targets"), [("full", []), ("lora", ["query", "value"])]
)
def test_the_peer_adapts_the_targets_of_lora_alone(method, targets, monkeypatch):
    calls = []
    monkeypatch.setattr(steps, "peft_step", lambda *_, **options: calls.append(options))
    steps.named_step({**LORA, "framework": "peft", "method": method})
    assert calls == [
        {
            "targets": targets,
            "rank": 2,
            "batch": 4,
            "length": 16,
            "compute_dtype": "float32",
        }
    ]


def test_a_framework_that_is_not_there_is_refused():
    message = "framework: expected one of lora_jax, peft, got 'keras'"
    with pytest.raises(ValueError, match=message):
        steps.named_step({**LORA, "framework": "keras"})
