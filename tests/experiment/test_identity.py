"""What tells rows apart, and what does not."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.experiment import NO_METHOD
from lora_jax.experiment.config import DEFAULT
from lora_jax.experiment.identity import (
    all_options,
    comparison_key,
    complete_config,
    identity,
    key,
)
from tests.experiment.changes import CHANGES


class TestKey:
    def test_it_is_the_hash_of_what_differs_from_the_defaults(self):
        flat = DEFAULT.changed(rank=4, batch=16).flat()
        text = b'{"batch":16,"rank":4}'
        assert identity(flat) == {"batch": 16, "rank": 4}
        assert key(flat) == hashlib.sha256(text).hexdigest()[:16]

    @given(CHANGES, st.data())
    def test_a_setting_that_is_added_at_its_default_changes_nothing(
        self, changes, data
    ):
        flat = DEFAULT.changed(**changes).flat()
        at_default = []
        for name, value in DEFAULT.flat().items():
            # The method says which options there are: no row lacks it.
            if name != "method" and flat.get(name) == value:
                at_default.append(name)
        # An old row has not yet had some of the settings.
        later = data.draw(st.sets(st.sampled_from(at_default)))
        old = {name: value for name, value in flat.items() if name not in later}
        assert key(old) == key(flat)

    @given(CHANGES)
    def test_the_order_of_settings_does_not_matter(self, changes):
        flat = DEFAULT.changed(**changes).flat()
        assert key(dict(reversed(flat.items()))) == key(flat)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            # A whole number, however it is written.
            ({"method": "lora", "alpha": 32}, {"method": "lora", "alpha": 32.0}),
            # Options of another method.
            ({"method": "full"}, {"method": "full", "rank": 4, "prefix_length": 3}),
            # Where the official files lie.
            ({"method": "lora"}, {"method": "lora", "data_dir": "a", "glue_dir": "b"}),
            # How nothing is trained.
            ({"method": NO_METHOD}, {"method": NO_METHOD, "batch": 2, "epochs": 9}),
            ({"method": NO_METHOD}, {"method": NO_METHOD, "learning_rate": 0.5}),
            ({"method": NO_METHOD}, {"method": NO_METHOD, "seed": 3}),
            (
                {"method": NO_METHOD},
                {"method": NO_METHOD, "adapter_dtype": "bfloat16"},
            ),
            # A run inside a comparison.
            (
                {"left": {"method": "lora", "rank": 8}},
                {"left": {"method": "lora", "alpha": 16}},
            ),
        ],
    )
    def test_what_does_not_matter(self, one, other):
        assert key(one) == key(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"method": "lora", "rank": 4}, {"method": "lora", "rank": 8}),
            ({"method": "lora"}, {"method": "full"}),
            ({"method": "lora"}, {"method": "lora", "adapter_dtype": "bfloat16"}),
            # Products in another dtype score otherwise, trained or not.
            ({"method": NO_METHOD}, {"method": NO_METHOD, "compute": "float32"}),
            ({"method": "lora"}, {"method": "lora", "data_source": "other files"}),
            # Not a run: there are no defaults.
            ({}, {"rank": 8}),
            ({"left": {"method": "lora"}}, {"right": {"method": "lora"}}),
            # A measurement's own setting.
            ({"method": "lora"}, {"method": "lora", "factor": 1}),
        ],
    )
    def test_what_matters(self, one, other):
        assert key(one) != key(other)


def test_all_options_are_those_of_every_method():
    names = all_options()
    assert {"rank", "prefix_length", "bottleneck", "top_layers"} <= names
    # Options that only change how adapters are stored are nobody's to set.
    assert "rank_multiple" not in names


class TestCompleteConfig:
    def test_options_of_another_method_are_left_out(self):
        old = {"method": "full", "data": "tiny", "rank": 4, "budget": 64}
        complete = complete_config(old)
        assert "rank" not in complete
        assert complete["budget"] == 64

    def test_runs_inside_a_comparison_are_completed(self):
        old = {"side": "in", "left": {"method": "lora", "data": "tiny"}}
        complete = complete_config(old)
        assert complete["side"] == "in"
        assert complete["left"] == DEFAULT.changed(data="tiny").flat()

    def test_what_is_no_run_stays_as_it_is(self):
        assert complete_config({"table": 2}) == {"table": 2}


class TestComparisonKey:
    @pytest.mark.parametrize("changes", [{"seed": 3}, {"compute": "bfloat16"}])
    def test_the_seed_and_the_dtype_do_not_matter(self, changes):
        other = DEFAULT.changed(**changes).flat()
        assert key(other) != key(DEFAULT.flat())
        assert comparison_key(other) == comparison_key(DEFAULT.flat())

    @pytest.mark.parametrize("changes", [{"rank": 3}, {"method": NO_METHOD}])
    def test_all_else_does(self, changes):
        other = DEFAULT.changed(**changes).flat()
        assert comparison_key(other) != comparison_key(DEFAULT.flat())
