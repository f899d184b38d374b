"""Every combination of settings, and runs of several methods."""

import pytest

from lora_jax.experiment import presets
from lora_jax.experiment.grid import RATES, grid, grid_of_methods, takes
from lora_jax.experiment.identity import key

BASE = presets.NLG_SMOKE


def keys(names, seeds=(0,), **changes):
    """The identities of the runs of several methods."""
    base = BASE.changed(**changes)
    runs = grid_of_methods(base, names, seeds)
    return [key(run.flat()) for run in runs]


def learning_rates(names, **options):
    base = BASE.changed(learning_rate=1.0)
    runs = grid_of_methods(base, names, (0,), **options)
    return [run.train.learning_rate for run in runs]


class TestGrid:
    def test_the_last_axis_varies_fastest(self):
        runs = grid(BASE, rank=(1, 2), seed=(0, 1))
        settings = [(run.options["rank"], run.seed) for run in runs]
        assert settings == [
            (1, 0),
            (1, 1),
            (2, 0),
            (2, 1),
        ]

    def test_all_else_is_the_bases(self):
        assert grid(BASE) == [BASE]
        changed = BASE.changed(rank=2, batch=8)
        assert grid(BASE, rank=(2,), batch=(8,)) == [changed]

    def test_an_axis_without_a_value_is_an_error(self):
        with pytest.raises(ValueError, match="rank: expected at least one value, got"):
            grid(BASE, rank=())

    def test_several_values_that_the_method_does_not_take_are_an_error(self):
        full = BASE.changed(method="full")
        message = "rank: full takes no rank: expected one value, got 1 2"
        with pytest.raises(ValueError, match=message):
            grid(full, rank=(1, 2))

    def test_a_single_one_may_be_another_methods(self):
        full = BASE.changed(method="full")
        (run,) = grid(full, rank=(1,))
        assert run.flat() == full.flat()

    def test_every_method_takes_a_field_of_the_run(self):
        assert takes("full", "seed")
        assert takes("lora", "rank")
        assert not takes("full", "rank")
        assert not takes("none", "prefix_length")


def test_what_trains_nothing_depends_on_neither_seed_nor_rate():
    seeds = keys(["none"], seeds=(0, 1, 2))
    rates = keys(["none"], learning_rate=1.0)
    assert len({*seeds, *rates}) == 1


def test_options_that_a_method_does_not_take_make_no_run_of_their_own():
    others = {"rank": 2, "targets": "key", "alpha": 1.0, "prefix_length": 4}
    # None of these has one of those options.
    names = ["none", "full", "top", "adapter_h"]
    assert keys(names, **others) == keys(names)
    assert keys(["lora"], **others) != keys(["lora"])
    assert keys(["prefix"], **others) != keys(["prefix"])


def test_full_fine_tuning_has_arrays_whatever_the_others_have():
    base = BASE.changed(quantize="nf4")
    runs = grid_of_methods(base, ["none", "full", "lora"], (0,))
    formats = [run.quantize for run in runs]
    assert formats == ["nf4", "float", "nf4"]


def test_rates_are_factors_of_the_learning_rate():
    names = ["lora", *RATES]
    assert learning_rates(names) == [1.0, *RATES.values()]
    assert set(learning_rates(names, rates={})) == {1.0}


def test_an_unknown_method_is_an_error_with_the_nearest():
    message = r"methods: expected some of lora, .*none.*, got lroa"
    with pytest.raises(ValueError, match=message):
        keys(["none", "lroa"])
