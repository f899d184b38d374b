"""The training loop: it trains, repeats itself, and says how it goes."""

import math
import sys
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from lora_jax import data, methods, train, tree
from lora_jax.train import classification

LORA = methods.lora(rank=4)
# Four steps an epoch.
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=2, batch=8, weight_decay=0.1)


@pytest.fixture(scope="module")
def model(tiny):
    return LORA.adapt(jax.random.key(1), tiny())


def fit(
    model: Any,
    examples: data.Encoded,
    config: train.TrainConfig = CONFIG,
    *,
    method: methods.Method = LORA,
    widths: tuple[int, ...] = (16,),
    seed: int = 0,
    **options: Any,
) -> train.Fit:
    objective = train.Objective(classification.loss, examples, widths, pad=1)
    mask = methods.mask(model, method)
    return train.fit(model, mask, objective, config, seed=seed, **options)


def copied(model: Any) -> Any:
    """Return the model in memory of its own."""
    return jax.tree.map(lambda leaf: np.array(leaf), model)


class TestTraining:
    def test_it_learns_32_examples_by_heart(self, model, examples):
        result = fit(model, examples, replace(CONFIG, epochs=30))
        assert result.losses[:4].mean() > 1
        assert result.losses[-4:].mean() < 0.1
        logits = classification.predict(
            result.model,
            examples,
            size=8,
            widths=(16,),
            pad=1,
            compute_dtype="float32",
        )
        assert (logits.argmax(-1) == examples.label).all()

    def test_it_is_a_function_of_its_arguments(self, model, examples, same):
        first = fit(model, examples, seed=0)
        again = fit(model, examples, seed=0)
        other = fit(model, examples, seed=1)
        assert same(first.model, again.model)
        assert first.losses.tobytes() == again.losses.tobytes()
        assert first.losses.tobytes() != other.losses.tobytes()

    def test_it_leaves_frozen_leaves_and_the_model_passed_in_alone(
        self, model, examples, same
    ):
        before = copied(model)
        result = fit(model, examples, replace(CONFIG, learning_rate=0.5))
        assert same(model, before)
        mask = methods.mask(model, LORA)
        trainable_before, frozen_before = tree.split(model, mask)
        trainable, frozen = tree.split(result.model, mask)
        assert same(frozen, frozen_before)
        assert not same(trainable, trainable_before)

    def test_a_sweep_compiles_once_for_each_width(self, tiny, examples):
        # A weight decay of no other test, so that nothing is compiled before.
        decayed = replace(CONFIG, weight_decay=0.3)

        def run(seed=0, learning_rate=0.02, **options):
            method = methods.lora(rank_multiple=8, **options)
            model = method.adapt(jax.random.key(seed), tiny())
            config = replace(decayed, learning_rate=learning_rate)
            fit(model, examples, config, method=method, seed=seed, widths=(8, 16))

        def compilations() -> int:
            # jax has no public function for it.
            return train.train_step._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

        before = compilations()
        run(rank=4)
        assert compilations() == before + 2
        run(rank=2, alpha=32.0)
        run(rank=8, seed=3, learning_rate=0.01, rank_stabilized=True)
        assert compilations() == before + 2

    def test_every_step_has_its_own_dropout(self, model, examples, monkeypatch):
        keys = []

        def watched_step(trainable, state, frozen, batch, rate, key, **options):
            keys.append(tuple(jax.random.key_data(key).tolist()))
            return trainable, state, 1.0

        # `train.fit` is the function.
        module = sys.modules["lora_jax.train.fit"]
        monkeypatch.setattr(module, "train_step", watched_step)
        result = fit(model, examples)
        assert len(keys) == 8
        assert len(set(keys)) == 8
        assert result.tokens == 2 * examples.lengths.sum()

    def test_offloaded_moments_stay_in_host_memory_and_change_nothing(
        self, model, examples, same
    ):
        """The CPU backend has such memory too, to try it on."""
        memory_kinds = set()
        real_step = train.train_step

        def watched_step(*arguments, **options):
            result = real_step(*arguments, **options)
            _, state, _ = result
            for leaf in jax.tree.leaves(state):
                memory_kinds.add(leaf.sharding.memory_kind)
            return result

        config = replace(CONFIG, epochs=1)
        with pytest.MonkeyPatch.context() as patch:
            # `train.fit` is the function.
            module = sys.modules["lora_jax.train.fit"]
            patch.setattr(module, "train_step", watched_step)
            offloaded = fit(model, examples, replace(config, offload=True))
        assert memory_kinds == {"pinned_host"}
        assert same(offloaded.model, fit(model, examples, config).model)


class TestEpochs:
    @pytest.mark.parametrize(
        ("scores", "best"),
        [
            ([0.2, 0.9, 0.5], 2),
            ([0.5, 0.5, 0.1], 1),
            ([-3.0, -2.0, -1.0], 3),
        ],
    )
    def test_the_first_best_epoch_is_kept(self, model, examples, same, scores, best):
        script = iter(scores)
        models = []

        def score(model):
            models.append(copied(model))
            return {"accuracy": next(script), "loss": 0.0}

        result = fit(model, examples, replace(CONFIG, epochs=3), score=score)
        assert result.best_epoch == best
        assert same(result.model, models[best - 1])
        assert [metrics["accuracy"] for metrics in result.validation] == scores

    def test_without_a_score_the_last_epoch_is(self, model, examples):
        result = fit(model, examples)
        assert result.best_epoch == 2
        assert result.validation == []


class TestReport:
    def test_progress_is_reported_after_each_step(self, model, examples):
        reports: list[train.Progress] = []
        result = fit(model, examples, report=reports.append)
        assert [progress.step for progress in reports] == list(range(1, 9))
        assert [progress.epoch for progress in reports] == [1] * 4 + [2] * 4
        assert {progress.steps for progress in reports} == {8}
        # The loss is that of the step before.
        losses = [progress.loss for progress in reports]
        assert math.isnan(losses[0])
        np.testing.assert_allclose(losses[1:], result.losses[:-1])
        assert reports[-1].tokens == result.tokens == 2 * examples.lengths.sum()

    def test_divergence_is_an_error_with_step_and_learning_rate(self, model, examples):
        text = (
            r"the loss is (nan|inf) at step \d of 8, learning rate \d\S+: "
            r"expected a finite one\. Try a lower"
        )
        with pytest.raises(train.Diverged, match=text):
            fit(model, examples, replace(CONFIG, learning_rate=1e30))

    def test_wrong_settings_are_an_error_before_anything_runs(self, model, examples):
        with pytest.raises(ValueError, match="epochs: expected >= 1, got 0"):
            fit(model, examples, replace(CONFIG, epochs=0))
