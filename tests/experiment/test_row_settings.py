"""Settings in a row that no run can have."""

import pytest

from lora_jax.experiment import RunConfig, row_settings
from lora_jax.results.row_fields import TEXT


@pytest.mark.parametrize("method", ["lora", "none", "adapter_h", "top", "prefix"])
def test_what_a_run_records_is_sound(method):
    assert row_settings.problems({"config": RunConfig(method=method).flat()}) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("targets", ["a", "b"], "text"),
        ("rank", "8", "a whole number of 0 or more or an object"),
        ("rank", True, "a whole number of 0 or more or an object"),
        ("learning_rate", None, "a finite number"),
        ("seed", -1, "a whole number of 0 or more"),
        ("quantize", "nf5", "one of none, float, nf4, nf4_double"),
        ("compute", [], "one of auto, float32, bfloat16"),
        ("layers", 3, "a list or null"),
        ("data_dir", 3, "text or null"),
        ("method", "lara", "one of none, lora, full"),
        ("method", ["lora"], "one of none, lora, full"),
    ],
)
def test_a_setting_of_another_kind_is_named(name, value, words):
    config = RunConfig().flat() | {name: value}
    (problem,) = row_settings.problems({"config": config})
    assert problem.startswith(f"config.{name}: expected {words}")
    assert problem.endswith(f"got {value!r}")


def test_each_of_several_runs_is_checked_under_its_name():
    left = RunConfig().flat()
    right = left | {"rank": "high"}
    (problem,) = row_settings.problems({"config": {"left": left, "right": right}})
    assert problem.startswith("config.right.rank: ")


def test_a_method_needs_no_option_of_another():
    needs = {"config.rank": TEXT, "config.seed": TEXT}
    config = RunConfig(method="full").flat()
    assert row_settings.applicable(needs, config) == {"config.seed": TEXT}
    assert row_settings.applicable(needs, RunConfig().flat()) == needs
