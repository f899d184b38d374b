"""A run's settings by the names that rows have, and what tells runs apart."""

import pytest
from hypothesis import given

from lora_jax.experiment import RunConfig
from lora_jax.experiment.config import DEFAULT, from_row, part_of
from lora_jax.experiment.identity import identity, key
from tests.experiment.changes import CHANGES


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
        names = ["model", "method", "quantize", "adapter_dtype", "seed"]
        assert list(DEFAULT.flat())[:5] == names

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
