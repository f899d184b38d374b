"""A run's settings by the names that rows have, and what tells runs apart."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_jax.experiment import NO_METHOD, RunConfig, config
from lora_jax.experiment.config import DEFAULT, from_row, identity, key, part_of

# A field of the run, of each of its parts, and options of two methods.
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["tiny", "tiny-llama"]),
        "method": st.sampled_from(["lora", "full", "prefix", NO_METHOD]),
        "seed": st.integers(0, 9),
        "data": st.sampled_from(["tiny", "cola"]),
        "rows": st.integers(0, 9),
        "learning_rate": st.floats(1e-6, 1.0),
        "compute": st.sampled_from(["float32", "bfloat16"]),
        "beam": st.integers(1, 9),
        "rank": st.integers(1, 9),
        "prefix_length": st.integers(1, 9),
    },
)


class TestChanged:
    def test_nothing_changed_is_the_same_run(self):
        assert DEFAULT.changed() == DEFAULT

    def test_a_name_goes_to_the_part_that_has_it(self):
        run = DEFAULT.changed(seed=1, rows=2, batch=4, beam=3, rank=5)
        assert run.seed == 1
        assert run.data.rows == 2
        assert run.train.batch == 4
        assert run.decode.beam == 3
        assert run.options == {"rank": 5}
        # The run that it was made from is a value.
        assert RunConfig() == DEFAULT

    @pytest.mark.parametrize(
        ("name", "value"),
        [("beam", 10), ("no_repeat", 4), ("new_tokens", 8), ("compute", "float32")],
    )
    def test_a_row_name_is_a_field_of_the_run(self, name, value):
        run = RunConfig().changed(**{name: value})
        assert name not in run.options
        assert run.flat()[name] == value
        assert from_row(run.flat()).flat() == run.flat()

    def test_options_of_another_method_wait_until_it_is_chosen(self):
        run = DEFAULT.changed(method="full", rank=5)
        assert run.method_options() == {}
        assert "rank" not in run.flat()
        assert run.changed(method="lora").method_options() == {"rank": 5}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model", "run"),
        ("model_source", "run"),
        ("max_length", "data"),
        ("compute", "train"),
        ("beam", "decode"),
        ("rank", None),
        ("factor", None),
    ],
)
def test_the_part_of_a_name(name, part):
    assert part_of(name) == part


class TestFlat:
    def test_it_has_every_option_of_the_method_and_none_of_another(self):
        flat = DEFAULT.changed(method="prefix", rank=5).flat()
        assert flat["prefix_length"] == 10
        assert "rank" not in flat
        assert DEFAULT.flat()["alpha"] == 16.0

    def test_it_begins_with_the_settings_of_the_run_itself(self):
        assert list(DEFAULT.flat())[:4] == ["model", "method", "quantize", "seed"]

    @given(CHANGES)
    def test_a_run_comes_back_from_its_row(self, changes):
        flat = DEFAULT.changed(**changes).flat()
        assert from_row(flat).flat() == flat
        assert key(from_row(flat).flat()) == key(flat)

    @given(CHANGES)
    def test_what_was_changed_is_in_the_row(self, changes):
        flat = DEFAULT.changed(**changes).flat()
        for name, value in changes.items():
            # An option of another method is not.
            assert flat.get(name, value) == value

    def test_a_measurements_own_settings_are_none_of_the_run(self):
        assert from_row({"rank": 4, "factor": 3}) == DEFAULT.changed(rank=4)

    def test_a_setting_that_an_old_row_lacks_has_its_default(self):
        assert from_row({"rows": 7}) == DEFAULT.changed(rows=7)


class TestData:
    @pytest.mark.parametrize(
        ("task", "length"), [("e2e", 160), ("wikisql", 320), ("webnlg", 0), ("dart", 0)]
    )
    def test_auto_is_the_length_of_the_task(self, task, length):
        run = DEFAULT.changed(data=task, max_length="auto")
        assert run.data.longest == length
        assert run.flat()["max_length"] == length
        same = DEFAULT.changed(data=task, max_length=length)
        assert key(run.flat()) == key(same.flat())

    def test_names_of_columns_are_part_of_a_row_where_they_are_set(self):
        run = DEFAULT.changed(data="a.csv", label_column="stars")
        assert run.data.columns == {"label": "stars"}
        assert identity(run.flat()) == {"data": "a.csv", "label_column": "stars"}


class TestKey:
    def test_it_is_the_hash_of_what_differs_from_the_defaults(self):
        flat = DEFAULT.changed(rank=4, batch=16).flat()
        text = b'{"batch":16,"rank":4}'
        assert config.identity(flat) == {"batch": 16, "rank": 4}
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
    names = config.all_options()
    assert {"rank", "prefix_length", "bottleneck", "top_layers"} <= names
    # Options that only change how adapters are stored are nobody's to set.
    assert "rank_multiple" not in names
