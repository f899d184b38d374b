"""Which formats have a row for each block size, and what is refused."""

import pytest
import quantization_cost
from quantization_cost import Options

from lora_jax.results.pages import quantization_cost as page


def test_four_bit_formats_are_measured_at_every_block_size():
    options = Options(model="tiny", formats=("bf16", "int8", "nf4"), blocks=(32, 64))
    sizes = {}
    for item in quantization_cost.measurements(options, None, None):
        if item.settings["part"] == page.SIZES:
            blocks = sizes.setdefault(item.settings["type"], [])
            blocks.append(item.settings["block"])
    assert sizes == {"bf16": [None], "int8": [None], "nf4": [None, 32, 64]}


def test_all_that_is_wrong_is_said_at_once():
    options = Options(model="tiny", formats=("nf5",), blocks=(48,), length=0)
    with pytest.raises(ValueError) as error:
        quantization_cost.measurements(options, None, None)
    text = str(error.value)
    assert "formats: expected some of fp32, bf16, int8" in text
    assert "got nf5" in text
    assert "blocks: expected powers of two from 32 to 4096, got 48" in text
    assert "length: expected 1 or more, got 0" in text
