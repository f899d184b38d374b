"""Bytes of weights, gradients and moments, by hand and as the papers have them."""

import pytest

from lora_jax import accounting
from lora_jax.accounting.optimizer_states import (
    HALF,
    MIXED,
    PRECISIONS,
    compare_with_lora,
    stored_bytes,
)


def test_bytes_by_hand():
    stored = stored_bytes(10, 3, MIXED)
    # Weights in 2 bytes and a copy of the trainable in 4, moments in twice 4.
    assert stored == (10 * 2 + 3 * 4, 3 * 2, 3 * 8, 3 * 2)
    assert stored.total == 62


def test_bytes_of_a_trainable_parameter():
    sizes = [precision.trainable for precision in PRECISIONS.values()]
    assert sizes == [6, 8, 12, 16, 16]


def test_the_780_gb_of_qloras_abstract():
    parameters = 65 * 10**9
    stored = stored_bytes(parameters, parameters, PRECISIONS["FP16, moments FP32"])
    assert stored.total == 780e9


def test_more_cannot_be_trained_than_there_are():
    message = "trainable: expected 0 to 10, the model's parameters, got 11"
    with pytest.raises(ValueError, match=message):
        stored_bytes(10, 11, HALF)


def test_full_fine_tuning_beside_lora():
    metrics = compare_with_lora("gpt3-175b", "query,value", 4, "FP16")
    total, adapter = accounting.total_parameters("gpt3-175b"), 18_874_368
    assert metrics["full/parameters"] == total
    assert metrics["lora/parameters"] == adapter
    assert metrics["full/total"] == 8 * total
    # Frozen weights have no gradient and no moments.
    assert metrics["lora/total"] == 2 * total + 8 * adapter
    assert metrics["lora/checkpoint"] == 2 * adapter
    assert metrics["sequence/inputs_of_blocks"] == 96 * 2048 * 12288 * 2
