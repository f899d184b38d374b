"""What a row is made from: its config, its key, and its name among others."""

import pytest

from lora_jax.experiment import Measurement
from lora_jax.experiment.identity import key
from lora_jax.experiment.measurement import labels
from tests.experiment.toy import BASE

OTHER = BASE.changed(rank=2, seed=1)


class TestConfig:
    def test_of_a_training_it_is_the_runs(self):
        assert Measurement((BASE,)).config() == BASE.flat()

    def test_the_measurements_own_settings_come_last(self):
        config = Measurement((BASE,), {"factor": 3}).config()
        assert list(config)[-1] == "factor"
        assert config == {**BASE.flat(), "factor": 3}

    def test_several_runs_stand_under_their_names(self):
        settings = {"side": "in"}
        item = Measurement((BASE, OTHER), settings, names=("left", "right"))
        config = item.config()
        assert list(config) == ["side", "left", "right"]
        assert config["left"] == BASE.flat()
        assert config["right"] == OTHER.flat()

    def test_a_name_for_each_run(self):
        item = Measurement((BASE,), names=("left", "right"))
        with pytest.raises(ValueError, match="shorter than argument 1"):
            item.config()

    def test_a_computation_has_no_run(self):
        assert Measurement((), {"table": 2}).config() == {"table": 2}


class TestKey:
    def test_it_is_the_configs(self):
        item = Measurement((BASE,), {"factor": 3})
        assert item.key() == key({**BASE.flat(), "factor": 3})
        assert item.key() != Measurement((BASE,)).key()

    def test_the_function_does_not_matter(self):
        trained = Measurement((BASE,))
        measured = trained._replace(measure=print)
        assert measured.key() == trained.key()

    def test_runs_have_keys_of_their_own(self):
        item = Measurement((BASE, OTHER), names=("left", "right"))
        assert item.run_keys() == (key(BASE.flat()), key(OTHER.flat()))


class TestLabels:
    def test_only_what_differs_is_named(self):
        configs = [{"rank": 1, "seed": 0}, {"rank": 2, "seed": 0}]
        assert labels(configs) == ["rank=1", "rank=2"]

    def test_settings_are_named_in_their_order(self):
        configs = [{"rank": 1, "seed": 0}, {"rank": 2, "seed": 1}]
        assert labels(configs) == ["rank=1 seed=0", "rank=2 seed=1"]

    def test_a_setting_that_only_some_have_is_not_a_difference(self):
        configs = [{"method": "lora", "rank": 8}, {"method": "full"}]
        assert labels(configs) == ["method=lora", "method=full"]

    def test_a_single_one_is_named_by_data_and_method(self):
        assert labels([{"data": "tiny", "method": "lora"}]) == ["tiny lora"]
        assert labels([{"table": 2}]) == [""]

    def test_where_files_are_from_is_not_named(self):
        configs = [
            {"data": "a", "data_source": "here"},
            {"data": "b", "data_source": "there"},
        ]
        assert labels(configs) == ["data=a", "data=b"]

    def test_numbers_are_short(self):
        configs = [{"learning_rate": 0.1 + 0.2}, {"learning_rate": 1e30}]
        assert labels(configs) == ["learning_rate=0.3", "learning_rate=1e+30"]

    def test_a_run_is_its_rank_and_seed(self):
        configs = []
        # One without a rank, such as full fine-tuning.
        for run in (BASE.flat(), OTHER.flat(), {"method": "full"}):
            configs.append({"left": run})
        assert labels(configs) == ["left=r1s0", "left=r2s1", "left=r-s0"]

    def test_nothing_has_no_names(self):
        assert labels([]) == []
