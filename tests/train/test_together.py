"""How many cells are computed at a time, by hand."""

import jax
import pytest

from lora_jax.train import together
from lora_jax.train.together import cells_together

MB = 2**20


def test_a_processor_computes_as_many_as_its_cache_holds(monkeypatch):
    monkeypatch.setattr(together, "CACHE_BYTES", 16 * MB)
    assert cells_together(64, MB // 4) == 64
    assert cells_together(64, MB) == 16
    # A divisor of 15, though 16 / 3 is more than 5.
    assert cells_together(15, 3 * MB) == 5
    assert cells_together(15, 200 * MB) == 1
    assert cells_together(13, 2 * MB) == 1


@pytest.mark.parametrize(
    ("memory", "count"), [(None, 12), (200 * MB, 12), (100 * MB, 6), (1, 1)]
)
def test_an_accelerator_computes_as_many_as_fit_beside_what_is_stored(
    memory, count, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # 0.8 of 100 MB without 10 MB leave room for 7 cells of 10 MB: 6 divides 12.
    assert cells_together(12, 10 * MB, 10 * MB, memory) == count
