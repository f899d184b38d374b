"""What runs cost is known before they start, and asked of each of them once."""

import pytest

from lora_jax import methods
from lora_jax.accounting import step_time
from lora_jax.experiment import NO_METHOD, Measurement
from lora_jax.experiment.forecast import forecasts, plan_lines, seconds
from lora_jax.experiment.identity import key
from tests.experiment.toy import BASE

NONE = BASE.changed(method=NO_METHOD)


def test_counts_are_by_the_runs_key(benches):
    by_key = forecasts([BASE, NONE], benches)
    counts = {name: cost.counts for name, cost in by_key.items()}
    # 2 layers x r (16 + 16), and the head's 16 x 2 + 2.
    assert counts == {
        key(BASE.flat()): methods.Counts(64, 34),
        key(NONE.flat()): methods.Counts(0, 0),
    }


def test_a_training_takes_longer_the_more_epochs_it_has(benches):
    longer = BASE.changed(epochs=3)
    by_key = forecasts([BASE, longer, NONE], benches)
    once, thrice, never = (cost.operations for cost in by_key.values())
    assert thrice > 2 * once > 0
    # The test split alone is scored.
    assert 0 < never < once


def test_seconds_are_operations_over_the_speed_of_the_machine(benches, monkeypatch):
    by_key = forecasts([BASE, NONE], benches)
    operations = sum(cost.operations for cost in by_key.values())
    monkeypatch.setattr(step_time, "product_speed", lambda: 1e6)
    assert seconds([BASE, NONE], by_key) == pytest.approx(operations / 1e6)
    # Nothing to train: nobody measures how fast.
    monkeypatch.setattr(step_time, "product_speed", pytest.fail)
    assert seconds([], by_key) == 0


def test_a_bench_is_made_once_for_each_run(benches, monkeypatch):
    """With several tasks each would be loaded and encoded anew."""
    runs = []
    make = type(benches).bench

    def bench(self, run):
        runs.append(run)
        return make(self, run)

    monkeypatch.setattr(type(benches), "bench", bench)
    forecasts([BASE, NONE], benches)
    assert runs == [BASE, NONE]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rank": 17}, "rank: expected 1 <= rank <= 16"),
        ({"targets": "qeury"}, "'qeury' matches no layer"),
    ],
)
def test_an_option_that_does_not_fit_the_model(benches, changes, text):
    with pytest.raises(ValueError, match=text):
        forecasts([BASE.changed(**changes)], benches)


def test_a_plan_has_a_line_for_each_row(benches):
    items = [Measurement((BASE,)), Measurement((NONE,))]
    by_key = forecasts([BASE, NONE], benches)
    assert plan_lines(items, items[1:], by_key) == [
        "             adapter      head",
        "done              64        34  method=lora",
        "to do              0         0  method=none",
    ]
