"""Timing of steps, and the estimate of a training, without a clock to depend on."""

import sys

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lora_jax import methods
from lora_jax.accounting import step_time
from lora_jax.accounting.peft_step import peft_step


class TestSteps:
    def test_a_step_runs_again_and_again_and_leaves_the_model_alone(self, tiny):
        model = tiny()
        before = jax.tree.map(np.array, model)
        step = step_time.compile_step(
            model, methods.full(), batch=4, length=8, compute_dtype="float32"
        )
        step.run()
        step.run()
        for old, new in zip(
            jax.tree.leaves(before), jax.tree.leaves(model), strict=True
        ):
            assert_array_equal(old, new)
        # Two moments and a count for each trainable number.
        assert step.sizes["optimizer"] == 2 * step.sizes["checkpoint"] + 4
        assert step.sizes["peak"] > step.sizes["temporary"] > 0

    def test_random_rows_are_full(self):
        rows = step_time.random_batch(3, length=7, vocabulary=50)
        assert rows.tokens.shape == (3, 7)
        assert rows.tokens.min() >= 5
        assert rows.length.tolist() == [7, 7, 7]
        assert rows.label.tolist() == [0, 1, 0]

    def test_steps_run_in_turn_and_the_first_two_rounds_do_not_count(self):
        runs = []
        steps = []
        for name in "ab":
            steps.append(step_time.Step(lambda name=name: runs.append(name), {}))
        seconds = step_time.time_in_turn(steps, 3)
        assert [len(durations) for durations in seconds] == [3, 3]
        assert runs == list("ab") * 5

    def test_the_median_time_counts(self):
        step = step_time.Step(lambda: None, {"peak": 3_000_000})
        metrics = step_time.step_metrics(step, [2.0, 90.0, 1.0], tokens=64)
        assert metrics == {
            "step/seconds": 2.0,
            "step/tokens_per_second": 32.0,
            "memory/peak_mb": 3.0,
        }


class TestEstimate:
    def test_the_estimate_counts_operations(self, tiny):
        # Two layers, each with four matrices of attention and two of the MLP.
        elements = 2 * (4 * 16 * 16 + 2 * 16 * 32)
        tokens = {"train": 10, "validation": 20, "test": 30}
        by_hand = elements * (4 * 3 * 10 + 2 * 3 * 20 + 2 * 30)
        bfloat16 = step_time.estimate_operations(tiny(), tokens, 3, "bfloat16")
        assert bfloat16 == pytest.approx(by_hand)
        float32 = step_time.estimate_operations(tiny(), tokens, 3, "float32")
        assert float32 == pytest.approx(1.5 * by_hand)

    def test_the_measured_speed_is_one_of_a_machine(self):
        assert 1e8 < step_time.product_speed() < 1e16


SHAPE = {"rank": 2, "batch": 4, "length": 8, "compute_dtype": "float32"}


class TestPeft:
    def test_packages_that_are_not_installed_are_named(self, config, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        message = (
            r"--peer peft needs torch, transformers and peft: "
            r"pip install -e '.\[peers"
        )
        with pytest.raises(ValueError, match=message):
            peft_step(config(), targets=("query",), **SHAPE)

    def test_a_model_of_another_family_is_refused(self, config):
        pytest.importorskip("peft")
        message = "expected a model of the BERT family, got roberta"
        with pytest.raises(ValueError, match=message):
            peft_step(config("roberta"), targets=(), **SHAPE)

    @pytest.mark.parametrize(
        ("targets", "parameters"),
        # Two layers of two matrices [16, 16] with r = 2, and the head of two classes.
        [(("query", "value"), 2 * 2 * 2 * (16 + 16) + 16 * 2 + 2)],
    )
    def test_sizes_are_those_of_the_trainable_parameters(
        self, config, targets, parameters
    ):
        pytest.importorskip("peft")
        step = peft_step(config(), targets=targets, **SHAPE)
        step.run()
        assert step.sizes == {"optimizer": 8 * parameters, "checkpoint": 4 * parameters}
