"""A run's settings by the names that rows have."""

import pytest

from lora_jax.experiment import RunConfig, config


@pytest.mark.parametrize(
    ("name", "value"),
    [("beam", 10), ("no_repeat", 4), ("new_tokens", 8), ("compute", "float32")],
)
def test_a_row_name_is_a_field_of_the_run(name, value):
    run = RunConfig().changed(**{name: value})
    assert name not in run.options
    assert run.flat()[name] == value
    assert config.from_row(run.flat()).flat() == run.flat()
