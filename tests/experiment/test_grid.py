"""Runs of several methods: rates, and options that are another method's."""

import pytest

from lora_jax.experiment import presets
from lora_jax.experiment.config import key
from lora_jax.experiment.grid import RATES, grid_of_methods


def keys(names, seeds=(0,), rates=None, **changes):
    base = presets.NLG_SMOKE.changed(**changes)
    result = []
    for run in grid_of_methods(base, names, seeds, rates=rates):
        result.append(key(run.flat()))
    return result


def learning_rates(names, **options):
    base = presets.NLG_SMOKE.changed(learning_rate=1.0)
    runs = grid_of_methods(base, names, (0,), **options)
    return [run.train.learning_rate for run in runs]


def test_what_trains_nothing_depends_on_neither_seed_nor_rate():
    runs = keys(["none"], seeds=(0, 1, 2)) + keys(["none"], learning_rate=1.0)
    assert len(set(runs)) == 1


def test_options_that_a_method_does_not_take_make_no_run_of_their_own():
    others = {"rank": 2, "targets": "key", "alpha": 1.0, "prefix_length": 4}
    names = ["none", "full", "top", "adapter_h"]
    assert keys(names, **others) == keys(names)
    assert keys(["lora"], **others) != keys(["lora"])
    assert keys(["prefix"], **others) != keys(["prefix"])


def test_full_fine_tuning_has_arrays_whatever_the_others_have():
    base = presets.NLG_SMOKE.changed(quantize="nf4")
    runs = grid_of_methods(base, ["none", "full", "lora"], (0,))
    assert [run.quantize for run in runs] == ["nf4", "float", "nf4"]


def test_rates_are_factors_of_the_learning_rate():
    names = ["lora", *RATES]
    assert learning_rates(names) == [1.0, *RATES.values()]
    assert set(learning_rates(names, rates={})) == {1.0}


def test_an_unknown_method_is_an_error_with_the_nearest():
    message = r"methods: expected some of lora, .*none.*, got lroa"
    with pytest.raises(ValueError, match=message):
        keys(["none", "lroa"])
