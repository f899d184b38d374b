"""A step that is timed on the device at hand."""

import pytest

from lora_jax.accounting import machines, measured_step
from tests.accounting.test_fitted_step import STEP


def test_a_row_has_the_step_s_time_and_what_it_needs():
    row = measured_step.measure({**STEP._asdict(), "times": 3, "part": "steps"})
    metrics = row["metrics"]
    assert len(row["seconds"]) == 3
    assert metrics["step/seconds"] == sorted(row["seconds"])[1]
    assert metrics["step/tokens_per_second"] == 4 * 16 / metrics["step/seconds"]
    assert metrics["bytes/compiled"] > 0
    assert row["device"] == "cpu"
    # A processor has no published peak, and keeps no count of its memory.
    assert "step/share_of_peak" not in metrics
    assert "bytes/peak" not in metrics


def test_the_share_is_of_the_device_s_published_peak():
    operations = measured_step.nominal_operations(STEP)
    peak = machines.MACHINES["h100"].chip.peak
    # As fast as the peak, half as fast, and a slow one that does not count.
    seconds = [2 * operations / peak, operations / peak, 1.0]
    kind = "NVIDIA H100 80GB HBM3"
    metrics = measured_step.speed_metrics(STEP, seconds, kind)
    assert metrics["step/share_of_peak"] == pytest.approx(0.5)
    assert metrics["step/nominal_operations"] == operations


def test_the_device_s_own_count_of_memory_is_in_the_row(monkeypatch):
    counts = iter([7_000, 9_000])
    monkeypatch.setattr(measured_step, "_most_bytes", lambda: next(counts))
    row = measured_step.measure({**STEP._asdict(), "times": 1})
    assert row["metrics"]["bytes/before"] == 7_000
    assert row["metrics"]["bytes/peak"] == 9_000


def test_the_nominal_operations_are_four_for_each_element_and_token():
    # As in test_fitted_step: blocks, and the head that is the embedding.
    attention = 2 * 32 * 32 + 2 * 32 * 16
    kernels = 2 * (attention + 3 * 32 * 48) + 32 * 257
    assert measured_step.nominal_operations(STEP) == 4 * kernels * 4 * 16
    # Quantized it stands for as many elements.
    quantized = STEP._replace(quantize="nf4")
    assert measured_step.nominal_operations(quantized) == 4 * kernels * 4 * 16
    # An encoder's head reads one token of a row: it is left out, as embeddings are.
    encoder = 2 * (4 * 16 * 16 + 2 * 16 * 32)
    assert measured_step.nominal_operations(STEP._replace(model="tiny")) == (
        4 * encoder * 4 * 16
    )
    # An untied head is a matrix of its own: width 4,096, 32,000 tokens.
    llama = measured_step.nominal_operations(STEP._replace(model="llama-7b"))
    blocks = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11_008)
    assert llama == 4 * (blocks + 4096 * 32_000) * 4 * 16
