"""Training: what the compiled step holds, that it learns, repeats itself, and says what went wrong."""

import math
import sys
from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import data, devices, methods, train, tree
from lora_jax.train import classification

LORA = methods.lora(rank=4)
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=2, batch=8, weight_decay=0.1)
compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # half the time to compile
STEP = train.StepConfig(weight_decay=0.1, clip=1.0)
LOSS = classification.loss


@pytest.fixture(scope="module")
def model(tiny):
    return LORA.adapt(jax.random.key(1), tiny())


def fit(
    model: Any,
    examples: data.Encoded,
    method=LORA,
    config=CONFIG,
    *,
    widths=(16,),
    seed=0,
    **options: Any,
) -> train.Fit:
    objective = train.Objective(LOSS, examples, widths, pad=1)
    mask = methods.mask(model, method)
    return train.fit(model, mask, objective, config, seed=seed, **options)


def arguments(
    model: Any, method: methods.Method, batch: data.Batch, step: train.StepConfig = STEP
) -> tuple:
    trainable, frozen = tree.split(model, methods.mask(model, method))
    trainable = jax.tree.map(jnp.copy, trainable)  # the step donates it
    return (
        trainable,
        train.optimizer(step).init(trainable),
        frozen,
        batch,
        jnp.float32(0.01),
        jax.random.key(0),
    )


def weight_gradients(
    model: Any, method: methods.Method, batch: data.Batch
) -> set[tuple[int, ...]]:
    """Shapes of frozen or learning matrices that a product of the whole step has, as a gradient of one would."""
    step = train.train_step.trace(
        *arguments(model, method, batch), loss=LOSS, config=STEP
    ).jaxpr.jaxpr
    kernels = {
        leaf.shape[-2:]
        for path, leaf in tree.leaves(model).items()
        if path.endswith("kernel")
    }
    products = {
        product[-2:]
        for product in matrix_products(step)
        if math.prod(product[:-2]) == 1
    }
    return {shape for shape in kernels if shape in products or shape[::-1] in products}


def matrix_products(jaxpr: Any) -> set[tuple[int, ...]]:
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found |= {variable.aval.shape for variable in equation.outvars}
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                found |= matrix_products(getattr(inner, "jaxpr", inner))
    return found


class TestFreeze:
    """What is frozen is not among what the compiled step makes (design decision 2)."""

    def test_the_compiled_step_returns_the_trainable_leaves_and_their_moments_only(
        self, model, batch
    ):
        trainable, state, frozen, *rest = arguments(model, LORA, batch)
        lowered = train.train_step.lower(
            trainable, state, frozen, *rest, loss=LOSS, config=STEP
        )
        out, out_state, loss = lowered.out_info
        shapes = {path: leaf.shape for path, leaf in tree.leaves(trainable).items()}
        assert {path: leaf.shape for path, leaf in tree.leaves(out).items()} == shapes
        frozen_shapes = {leaf.shape for leaf in tree.leaves(frozen).values()}
        assert not frozen_shapes & {
            leaf.shape for leaf in jax.tree.leaves((out, out_state))
        }
        assert loss.shape == ()
        made = lowered.compile().memory_analysis()
        assert made is not None
        numbers = jax.tree.leaves((out, out_state, loss))
        pointers = 8 * (len(numbers) + 1)
        assert (
            made.output_size_in_bytes
            <= sum(4 * math.prod(leaf.shape) for leaf in numbers) + pointers
        )

    def test_no_product_of_the_step_is_a_frozen_matrix_s_gradient(self, model, batch):
        frozen = {(16, 16), (16, 32), (32, 16)}
        assert not weight_gradients(model, LORA, batch) & frozen
        assert (
            weight_gradients(methods.unload(model), methods.full(), batch) >= frozen
        ), "the test sees none at all"

    def test_the_optimiser_holds_two_numbers_for_each_that_learns_and_a_count(
        self, model, batch
    ):
        trainable, state, *_ = arguments(model, LORA, batch)
        assert tree.count(state) == 2 * tree.count(trainable) + 1

    def test_frozen_bytes_are_the_same_after_training_and_the_given_model_too(
        self, model, examples, same
    ):
        before = jax.tree.map(lambda leaf: np.array(leaf), model)
        done = fit(model, examples, config=replace(CONFIG, learning_rate=0.5))
        assert same(model, before)
        mask = methods.mask(model, LORA)
        assert same(tree.split(done.model, mask)[1], tree.split(model, mask)[1])
        assert not same(tree.split(done.model, mask)[0], tree.split(model, mask)[0])


class TestStep:
    def test_the_learning_rate_warms_up_and_decays(self):
        config = train.TrainConfig(learning_rate=6.0, warmup=0.25)
        assert [
            train.learning_rate(config, step, 8) for step in range(8)
        ] == pytest.approx([3.0, 6, 6, 5, 4, 3, 2, 1])
        config = train.TrainConfig(learning_rate=4.0, warmup=0.0)
        assert [
            train.learning_rate(config, step, 4) for step in range(4)
        ] == pytest.approx([4, 3, 2, 1])
        assert train.learning_rate(config, 0, 1) == 4

    def test_cross_entropy_of_smoothed_labels(self):
        logits = jnp.array([[0.0, math.log(3)]])  # probabilities 1/4, 3/4
        by_hand = -(0.1 * math.log(0.25) + 0.9 * math.log(0.75))
        assert float(
            classification.losses(logits, jnp.array([1]), 0.2)[0]
        ) == pytest.approx(by_hand, rel=1e-6)
        assert float(
            classification.losses(logits, jnp.array([1]), 0.0)[0]
        ) == pytest.approx(math.log(4 / 3), rel=1e-6)

    def test_one_output_is_a_squared_error(self):
        found = classification.losses(
            jnp.array([[1.0], [2.5]]), jnp.array([3.0, 2.0]), 0.2
        )
        assert found.tolist() == [4.0, 0.25]

    def test_weight_decay_spares_biases_and_norms(self, tiny):
        full = tree.leaves(
            train.decay_mask(methods.lora(bias="all").adapt(jax.random.key(0), tiny()))
        )
        spared = {path.split("/")[-1] for path, decays in full.items() if not decays}
        assert spared == {"bias", "scale"}
        assert {"kernel", "embedding", "lora_a", "lora_b"} <= {
            p.split("/")[-1] for p, decays in full.items() if decays
        }

    def test_clipping_is_by_the_norm_of_the_gradient_given(self):
        gradient, static = {"kernel": jnp.array([3.0, 4.0])}, STEP._replace(clip=1.0)
        _, state = train.optimizer(static).update(
            gradient, train.optimizer(static).init(gradient), gradient
        )
        moment = optax.tree.get(state, "mu")["kernel"]
        np.testing.assert_allclose(moment, 0.1 * np.array([0.6, 0.8]), rtol=1e-6)
        static = STEP._replace(clip=0.0)
        _, state = train.optimizer(static).update(
            gradient, train.optimizer(static).init(gradient), gradient
        )
        np.testing.assert_allclose(
            optax.tree.get(state, "mu")["kernel"], [0.3, 0.4], rtol=1e-6
        )

    def test_four_micro_batches_make_the_step_of_one_batch(self, model, examples):
        few = data.Encoded(
            examples.tokens, examples.segments, examples.offsets[:7], examples.label[:6]
        )
        batch = next(data.batches(few, size=8, widths=(16,), seed=None, pad=1))
        assert (
            batch.weight.tolist() == [1] * 6 + [0] * 2
        )  # the last micro-batch has no row of its own
        one, four = (
            train.train_step(
                *arguments(model, LORA, batch, static), loss=LOSS, config=static
            )
            for static in (STEP, STEP._replace(accumulate=4))
        )
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def test_rows_of_weight_zero_do_not_count(self, model, batch):
        learnt = jax.tree.map(lambda leaf: leaf + 0.1, arguments(model, LORA, batch)[0])
        frozen, key = arguments(model, LORA, batch)[2], jax.random.key(0)
        half = batch._replace(weight=np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32))
        filled = half._replace(
            tokens=np.where(half.weight[:, None] > 0, half.tokens, 7)
        )
        gradient = compiled(train.gradient, static_argnames=("loss", "config"))
        for a, b in zip(
            jax.tree.leaves(
                gradient(learnt, frozen, half, key, loss=LOSS, config=STEP)
            ),
            jax.tree.leaves(
                gradient(learnt, frozen, filled, key, loss=LOSS, config=STEP)
            ),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


class TestOffload:
    """QLoRA's paged optimiser in kind: Adam's moments wait in host memory, which the CPU backend has too, to try it on."""

    def test_the_moments_are_in_host_memory_before_and_after_a_step_and_the_training_is_the_same(
        self, model, examples, same
    ):
        kinds = []
        real = train.train_step

        def watched(trainable, state, *rest, **step):
            made = real(trainable, state, *rest, **step)
            kinds.extend(leaf.sharding.memory_kind for leaf in jax.tree.leaves(made[1]))
            return made

        config = replace(CONFIG, epochs=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["lora_jax.train.fit"], "train_step", watched)
            away = fit(model, examples, config=replace(config, offload=True))
        assert set(kinds) == {"pinned_host"}
        assert same(away.model, fit(model, examples, config=config).model)

    def test_a_backend_without_such_memory_is_told_apart(self, monkeypatch):
        monkeypatch.setattr(devices, "memory_kinds", lambda: ["device"])
        with pytest.raises(
            ValueError,
            match=r"offload: expected a backend .*pinned_host memory.* \(this one: device\), got",
        ):
            train.check(replace(CONFIG, offload=True))


class TestFit:
    def test_learns_32_examples_by_heart(self, model, examples):
        done = fit(model, examples, config=replace(CONFIG, epochs=30))
        assert done.losses[:4].mean() > 1 and done.losses[-4:].mean() < 0.1
        logits = classification.predict(
            done.model, examples, size=8, widths=(16,), pad=1, compute_dtype="float32"
        )
        assert (logits.argmax(-1) == examples.label).all()

    def test_is_a_function_of_its_arguments(self, model, examples, same):
        first, again, other = (fit(model, examples, seed=seed) for seed in (0, 0, 1))
        assert (
            same(first.model, again.model)
            and first.losses.tobytes() == again.losses.tobytes()
        )
        assert first.losses.tobytes() != other.losses.tobytes()

    def test_says_how_it_goes(self, model, examples):
        said: list[train.Progress] = []
        done = fit(model, examples, report=said.append)
        assert [(now.epoch, now.step) for now in said] == [
            (1 + i // 4, 1 + i) for i in range(8)
        ]
        assert {now.steps for now in said} == {8}
        assert math.isnan(said[0].loss)
        np.testing.assert_allclose([now.loss for now in said[1:]], done.losses[:-1])
        assert said[-1].tokens == done.tokens == 2 * examples.lengths.sum()

    def test_one_compilation_for_each_width_serves_a_whole_sweep(self, tiny, examples):
        decayed = replace(
            CONFIG, weight_decay=0.3
        )  # no other test's, so that nothing is compiled before

        def run(seed=0, learning_rate=0.02, **options):
            method = methods.lora(rank_multiple=8, **options)
            model = method.adapt(jax.random.key(seed), tiny())
            config = replace(decayed, learning_rate=learning_rate)
            fit(model, examples, method, config, seed=seed, widths=(8, 16))

        def compilations() -> int:
            return train.train_step._cache_size()  # pyright: ignore[reportAttributeAccessIssue] # jax has no public one

        before = compilations()
        run(rank=4)
        assert compilations() == before + 2
        run(rank=2, alpha=32.0)
        run(rank=8, seed=3, learning_rate=0.01, rank_stabilized=True)
        assert compilations() == before + 2

    @pytest.mark.parametrize(
        "scores, best",
        [([0.2, 0.9, 0.5], 2), ([0.5, 0.5, 0.1], 1), ([-3.0, -2.0, -1.0], 3)],
    )
    def test_keeps_the_first_best_epoch(self, model, examples, same, scores, best):
        script, models = iter(scores), []

        def score(model):
            models.append(jax.tree.map(lambda leaf: np.array(leaf), model))
            return {"accuracy": next(script), "loss": 0.0}

        done = fit(model, examples, config=replace(CONFIG, epochs=3), score=score)
        assert done.best_epoch == best and same(done.model, models[best - 1])
        assert [epoch["accuracy"] for epoch in done.validation] == scores

    def test_without_a_score_the_last_epoch_counts(self, model, examples):
        done = fit(model, examples)
        assert done.best_epoch == 2 and done.validation == []

    def test_divergence_says_step_and_learning_rate(self, model, examples):
        text = r"the loss is (nan|inf) at step \d of 8, learning rate \d\S+: expected a finite one\. Try a lower"
        with pytest.raises(train.Diverged, match=text):
            fit(model, examples, config=replace(CONFIG, learning_rate=1e30))

    def test_all_wrong_settings_are_told_at_once(self, model, examples):
        wrong = train.TrainConfig(
            learning_rate=0,
            epochs=0,
            batch=6,
            accumulate=4,
            weight_decay=-1,
            warmup=1,
            clip=-1,
            label_smoothing=1,
            hidden_dropout=1,
            compute_dtype="float16",
        )
        with pytest.raises(ValueError) as caught:
            fit(model, examples, config=wrong)
        told = str(caught.value)
        assert "learning_rate: expected > 0, got 0" in told
        assert "accumulate: expected >= 1 and a divisor of batch, got 4" in told
        assert "compute_dtype: expected float32 or bfloat16, got float16" in told
        fine = {"batch", "seed", "offload"}  # offload is wrong on other backends only
        assert all(
            f"{name}: expected" in told
            for name in (field.name for field in fields(train.TrainConfig))
            if name not in fine
        )


def test_predictions_come_in_the_order_of_the_examples(model, examples):
    logits = classification.predict(
        model, examples, size=5, widths=(8, 16), pad=1, compute_dtype="float32"
    )
    tokens, segments = np.full((32, 16), 1, np.int32), np.zeros((32, 16), np.int32)
    for row, (start, end) in enumerate(
        zip(examples.offsets, examples.offsets[1:], strict=False)
    ):
        tokens[row, : end - start] = examples.tokens[start:end]
        segments[row, : end - start] = examples.segments[start:end]
    wanted = compiled(type(model).__call__)(model, tokens, segments, examples.lengths)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_close_to_float32(model, examples):
    exact, rounded = (
        classification.predict(
            model, examples, size=32, widths=(16,), pad=1, compute_dtype=compute
        )
        for compute in ("float32", "bfloat16")
    )
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05 * np.abs(exact).max()
