"""Which formats have a row for each block size, and what is refused."""

import pytest
import quantization_cost
from quantization_cost import Options


def test_four_bit_formats_are_measured_at_every_block_size():
    options = Options(model="tiny", formats=("bf16", "int8", "nf4"), blocks=(32, 64))
    sizes = {}
    for item in quantization_cost.measurements(options, None, None):
        if item.settings["part"] == quantization_cost.SIZES:
            blocks = sizes.setdefault(item.settings["type"], [])
            blocks.append(item.settings["block"])
    assert sizes == {"bf16": [None], "int8": [None], "nf4": [None, 32, 64]}


def test_all_that_is_wrong_is_said_at_once():
    options = Options(model="tiny", formats=("nf5",), blocks=(48,), length=0)
    with pytest.raises(ValueError) as error:
        quantization_cost.check(options)
    text = str(error.value)
    assert "formats: expected some of fp32, bf16, int8" in text
    assert "got nf5" in text
    assert "blocks: expected powers of two from 32 to 4096, got 48" in text
    assert "length: expected 1 or more, got 0" in text


def test_the_table_by_block_has_bits_and_error_of_each_format():
    rows = []
    for name, block, bits in (("nf4", 64, 4.5), ("nf4", 32, 5.0), ("fp4", 32, 5.0)):
        config = {"part": "sizes", "type": name, "block": block}
        metrics = {"size/bits": bits, "error/relative": 0.1}
        rows.append({"config": config, "metrics": metrics})
    table = quantization_cost.block_table(rows)
    assert list(table.block) == [32, 64]
    assert list(table["nf4, bits"]) == [5.0, 4.5]
    assert table["fp4, error"].iloc[0] == 0.1
