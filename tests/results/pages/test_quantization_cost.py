"""The tables of what formats cost, on rows whose numbers are made up."""

import pytest

from lora_jax.results.pages import quantization_cost as page


def sizes(name, bits, block=None, model="m"):
    metrics = {
        "size/bits": bits,
        "error/relative": 0.125,
        "size/disk": 3e6,
        "size/memory": 2e6,
    }
    config = {"model": model, "part": "sizes", "type": name, "block": block}
    return {"config": config, "metrics": metrics}


def step(name, seconds):
    config = {"model": "m", "part": "step", "type": name}
    metrics = {"step/seconds": seconds, "step/peak": 5e6, "step/temporary": 1e6}
    return {"config": config, "metrics": metrics}


@pytest.fixture
def rows():
    return [
        sizes("nf4-double", 4.127),
        sizes("nf4-double", 4.25, block=32),
        sizes("bf16", 16),
        step("nf4-double", 0.25),
    ]


def test_a_format_has_sizes_at_its_own_block_size_and_a_step(rows):
    table = page.format_table(rows, ("fp32", "bf16", "nf4_double"))
    assert list(table["type"]) == ["bf16", "nf4_double"]
    assert list(table.iloc[1]) == ["nf4_double", 4.127, 0.125, 3.0, 2.0, 250.0, 5.0]
    # The step of bf16 has no row yet.
    assert table["step, ms"].isna().tolist() == [True, False]


def test_the_table_by_block_has_bits_and_error_of_each_format():
    rows = [sizes("nf4", 4.5, 64), sizes("nf4", 5.0, 32), sizes("fp4", 5.0, 32)]
    table = page.block_table(rows)
    assert list(table.block) == [32, 64]
    assert list(table["nf4, bits"]) == [5.0, 4.5]
    assert table["fp4, error"].iloc[0] == 0.125


def test_a_section_has_both_tables(rows):
    table = page.format_table(rows, ("bf16", "nf4_double"))
    first, heading, second = page.blocks(rows, table)
    assert "| bf16       | 16.000 |       0.1250 |" in first
    assert heading == "By block size:"
    assert "nf4_double, bits" in second


def test_a_random_model_is_marked_and_may_lack_steps_and_blocks():
    rows = [sizes("bf16", 16, model="tiny")]
    warning, text = page.blocks(rows, page.format_table(rows, ("bf16",)))
    assert "A smoke run" in warning
    assert "step, ms" not in text
