"""Formats of a base: error and sizes by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import quant
from lora_jax.accounting.storage import FORMATS, storage_metrics, store_base

# 64 values from -7 to 7: one block of int4, whose scale is 7 / 7.
VALUES = np.linspace(-7, 7, 64, dtype=np.float32)


@pytest.fixture
def model():
    return {
        "blocks": {"kernel": jnp.asarray(VALUES.reshape(1, 8, 8))},
        "head": {"kernel": jnp.ones((2, 2))},
    }


def test_sizes_of_one_block_by_hand(model):
    metrics = storage_metrics(model, FORMATS["int4"], None)
    block = 32 + 4  # bytes of codes, and of the scale
    assert metrics["size/bits"] == 8 * block / 64
    head = 4 * 4
    assert metrics["size/memory"] == block + head
    # A file has a header too.
    assert metrics["size/disk"] > block + head


def test_errors_of_one_block_by_hand(model):
    metrics = storage_metrics(model, FORMATS["int4"], None)
    rounded = np.abs(np.round(VALUES) - VALUES)
    relative = ((rounded**2).sum() / (VALUES**2).sum()) ** 0.5
    assert metrics["error/mean_absolute"] == pytest.approx(rounded.mean(), rel=1e-4)
    assert metrics["error/relative"] == pytest.approx(relative, rel=1e-4)


def test_float32_has_no_error(model):
    metrics = storage_metrics(model, FORMATS["fp32"], None)
    assert metrics["error/relative"] == 0
    assert metrics["size/bits"] == 32


def test_only_the_blocks_are_stored_in_the_format(model):
    stored = store_base(model, FORMATS["bf16"])
    assert stored["blocks"]["kernel"].dtype == jnp.bfloat16
    assert stored["head"]["kernel"].dtype == jnp.float32
    quantized = store_base(model, FORMATS["nf4"], block=32)
    assert quant.is_quantized(quantized["blocks"]["kernel"])
    # 4 bits, and a float32 scale for each block of 32.
    assert quant.bits_per_parameter(quantized["blocks"]["kernel"]) == 5


def test_a_format_that_is_quantized_has_its_own_name():
    for name, storage in FORMATS.items():
        assert storage.quantize in (name, "none")
    assert FORMATS["fp32"].compute_dtype == "float32"
    assert FORMATS["nf4"].compute_dtype in ("float32", "bfloat16")


def test_some_formats_have_four_bits():
    names = [name for name, storage in FORMATS.items() if storage.has_four_bits]
    assert names == ["int4", "fp4", "nf4", "nf4_double"]
