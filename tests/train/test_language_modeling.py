"""The loss of a language model: its value and gradients against optax's, which tokens it is about, its memory; training on it."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import data, methods, metrics, quant, train, tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.train import cross_entropy, language_modeling
from tests.models.test_gpt2 import compiled
from tests.models.test_llama import tiny

LORA = methods.lora("query,value", 4)
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=3, batch=4)


@compiled
@functools.partial(jax.value_and_grad, argnums=(0, 1))
def exact(x, kernel, labels, weight, smoothing):
    """Three times optax's cross-entropy, of all logits at once."""
    wanted = optax.smooth_labels(jax.nn.one_hot(labels, kernel.shape[-1]), smoothing)
    return 3 * (weight * optax.softmax_cross_entropy(x @ kernel, wanted)).sum()


@functools.cache
def value_and_gradients(chunk: int, smoothing: float) -> Any:
    """Of three times ours, with chunks of so many tokens."""

    def ours(x, kernel, labels, weight):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cross_entropy, "CHUNK", chunk)
            total: Any = cross_entropy.cross_entropy(
                x, kernel, labels, weight, smoothing
            )
            return 3 * total

    return compiled(jax.value_and_grad(ours, (0, 1)))


@st.composite
def weights(draw, rows: int, tokens: int) -> np.ndarray:
    """Of a stretch of each row, with gaps; of some rows none."""
    weight = np.zeros((rows, tokens), np.float32)
    for row in weight:
        first, last = sorted(
            draw(st.lists(st.integers(0, tokens), min_size=2, max_size=2))
        )
        row[first:last] = draw(
            st.lists(
                st.sampled_from([0.0, 0.5, 1.0]),
                min_size=last - first,
                max_size=last - first,
            )
        )
    return weight


class TestCrossEntropy:
    @settings(max_examples=60, deadline=None)
    @given(
        st.data(),
        st.sampled_from(
            [((1, 9), 4, 0.0), ((3, 7), 1, 0.0), ((3, 7), 8, 0.1), ((3, 7), 256, 0.1)]
        ),
    )
    def test_value_and_gradients_are_those_of_optax(self, given, case):
        shape, chunk, smoothing = case
        weight, rng = given.draw(weights(*shape)), np.random.default_rng(0)
        x, kernel, labels = (
            rng.normal(size=(*shape, 5)),
            rng.normal(size=(5, 11)),
            rng.integers(0, 11, shape),
        )
        ours = value_and_gradients(chunk, smoothing)(
            jnp.float32(x), jnp.float32(kernel), labels, weight
        )
        with jax.enable_x64(True):
            wanted = exact(x, kernel, labels, np.float64(weight), smoothing)
        for got, expected in zip(
            jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)

    def test_by_hand(self):
        """Probabilities 1/4 and 3/4, the second is wanted; smoothed by 0.2 both are, in parts of 0.1 and 0.9."""
        x, kernel = jnp.ones((1, 1, 1)), jnp.array([[0.0, math.log(3)]])
        given = x, kernel, jnp.array([[1]]), jnp.array([[2.0]])
        assert float(cross_entropy.cross_entropy(*given, 0.0)) == pytest.approx(
            2 * math.log(4 / 3)
        )
        by_hand = -2 * (0.1 * math.log(0.25) + 0.9 * math.log(0.75))
        assert float(cross_entropy.cross_entropy(*given, 0.2)) == pytest.approx(by_hand)

    @pytest.mark.parametrize("of", [0, (0, 1)])
    def test_no_more_logits_than_a_chunk_s(self, of):
        """4,096 tokens of a vocabulary of 8,192 would have logits of 134 MB; a chunk of 256 has 8.4 MB."""
        rows, tokens, d, vocabulary = 16, 256, 8, 8192
        chunk, kernel = 4 * cross_entropy.CHUNK * vocabulary, 4 * d * vocabulary
        like = jax.ShapeDtypeStruct
        given = (
            like((rows, tokens, d), "float32"),
            like((d, vocabulary), "float32"),
            like((rows, tokens), "int32"),
        )
        step = jax.jit(
            jax.value_and_grad(cross_entropy.cross_entropy, of), static_argnums=4
        )
        lowered = step.trace(*given, like((rows, tokens), "float32"), 0.1)
        sizes = {
            math.prod(shape)
            for shape in shapes(lowered.jaxpr.jaxpr)
            if vocabulary in shape
        }
        assert max(sizes) == cross_entropy.CHUNK * vocabulary
        made = lowered.lower().compile().memory_analysis()
        assert made is not None
        assert (
            made.temp_size_in_bytes
            < 4 * chunk + 4 * kernel
            < 4 * rows * tokens * vocabulary / 2
        )


def shapes(jaxpr: Any) -> set[tuple[int, ...]]:
    """Of all that the equations make, those inside of others too."""
    found = set()
    for equation in jaxpr.eqns:
        found |= {variable.aval.shape for variable in equation.outvars}
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                found |= shapes(getattr(inner, "jaxpr", inner))
    return found


@pytest.fixture(scope="module")
def encoded() -> data.Encoded:
    """Ten rows of 3 to 12 tokens, of which the last two to five are the target."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 13, 10)
    segments = [np.arange(n) >= max(1, n - rng.integers(2, 6)) for n in sizes]
    offsets = np.concatenate([[0], sizes.cumsum()])
    tokens = rng.integers(0, 50, offsets[-1]).astype(np.int32)
    return data.Encoded(
        tokens,
        np.concatenate(segments).astype(np.int32),
        offsets,
        np.zeros(10, np.int32),
    )


@pytest.fixture(scope="module")
def batch(encoded) -> data.Batch:
    """Four rows, of which two only fill it up."""
    few = encoded._replace(offsets=encoded.offsets[:3], label=encoded.label[:2])
    return next(data.batches(few, size=4, widths=(16,), seed=None, pad=0))


@pytest.fixture(scope="module")
def nats(encoded) -> list[list[float]]:
    """Of each row's target tokens, each predicted from those before it."""
    tokens = np.full((10, 12), 49, np.int32)
    for row, (start, end) in enumerate(itertools.pairwise(encoded.offsets)):
        tokens[row, : end - start] = encoded.tokens[start:end]
    logs = np.asarray(
        jax.nn.log_softmax(compiled(Decoder.__call__)(tiny(), tokens, encoded.lengths))
    )
    return [
        [
            -logs[row, at - 1, tokens[row, at]]
            for at in range(1, end - start)
            if encoded.segments[start + at]
        ]
        for row, (start, end) in enumerate(itertools.pairwise(encoded.offsets))
    ]


PLAIN = train.StepConfig()
loss = compiled(language_modeling.loss, static_argnames="config")
gradient = compiled(train.gradient, static_argnames=("loss", "config"))


class TestLoss:
    def test_is_that_of_the_target_s_tokens(self, encoded, batch, nats):
        total, count = loss(tiny(), batch, PLAIN)
        assert (
            float(count)
            == len(nats[0] + nats[1])
            == encoded.segments[: encoded.offsets[2]].sum()
        )
        assert float(total) == pytest.approx(sum(nats[0] + nats[1]), rel=1e-5)

    def test_what_is_padded_or_only_fills_the_batch_up_does_not_count(self, batch):
        other = batch._replace(
            tokens=np.where(batch.weight[:, None] > 0, batch.tokens, 7),
            segments=np.where(np.arange(16) < batch.length[:, None], batch.segments, 1),
        )
        assert (other.segments != batch.segments).any() and (
            other.tokens != batch.tokens
        ).any()
        for got, wanted in zip(
            *(loss(tiny(), each, PLAIN) for each in (other, batch)),
            strict=True,
        ):
            assert float(got) == pytest.approx(float(wanted), rel=1e-6)

    def test_bfloat16_is_close(self, batch):
        exact, rounded = (
            float(loss(tiny(), batch, PLAIN._replace(compute_dtype=kind))[0])
            for kind in ("float32", "bfloat16")
        )
        assert 0 < abs(exact - rounded) < 0.02 * exact

    def test_the_first_token_is_predicted_by_none(self, batch):
        """Every token marked, the first too: it has nothing before it."""
        every = batch._replace(segments=np.ones_like(batch.segments))
        assert (
            float(loss(tiny(), every, PLAIN)[1])
            == (batch.length - 1)[batch.weight > 0].sum()
        )

    def test_perplexity_by_hand(self, encoded, nats):
        found = language_modeling.evaluate(
            tiny(), encoded, size=4, widths=(16,), pad=0, compute_dtype="float32"
        )
        mean = np.mean(list(itertools.chain(*nats)))
        assert found == pytest.approx(
            {"loss": mean, "perplexity": np.exp(mean)}, rel=1e-5
        )
        assert list(found) == [
            "loss",
            "perplexity",
        ]  # the first is what an epoch is chosen by


@pytest.fixture(scope="module")
def model() -> Any:
    """With adapters that are not at their start, on a base of bits."""
    adapt = compiled(
        lambda base: LORA.adapt(jax.random.key(1), quant.quantize_model(base, "int8"))
    )
    model = adapt(tiny())
    return tree.replace(
        model, {path: leaf + 0.1 for path, leaf in tree.find(model, "lora_b$").items()}
    )


class TestTraining:
    def test_the_step_passes_its_configuration_to_the_loss(self, batch):
        config = PLAIN._replace(label_smoothing=0.2, compute_dtype="bfloat16")
        cast = precision.cast_kernels(tiny(), "bfloat16")
        total, count = loss(cast, batch, config)
        plain_total, _ = loss(cast, batch, config._replace(label_smoothing=0.0))
        assert abs(float(total - plain_total)) > 0.1
        parts = tree.split(tiny(), methods.mask(tiny(), methods.full()))
        step = {"loss": language_modeling.loss, "config": config}
        value, _ = gradient(*parts, batch, jax.random.key(0), **step)
        np.testing.assert_allclose(value, total / count, rtol=1e-5)

    def test_two_micro_batches_make_the_gradient_of_one(self, model, encoded):
        """Weighted by their tokens, which are not as many."""
        batch = next(data.batches(encoded, size=4, widths=(16,), seed=0, pad=0))
        parts = tree.split(model, methods.mask(model, LORA))
        one, two = (
            gradient(
                *parts,
                batch,
                jax.random.key(0),
                loss=language_modeling.loss,
                config=PLAIN._replace(accumulate=n),
            )
            for n in (1, 2)
        )
        assert len({batch.segments[i::2].sum() for i in (0, 1)}) == 2
        assert (
            sum(float(np.abs(leaf).max()) > 1e-6 for leaf in jax.tree.leaves(one[1]))
            == 4
        )
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)

    def fit(self, model: Any, encoded: data.Encoded, **changes: Any) -> train.Fit:
        objective = train.Objective(language_modeling.loss, encoded, (16,), pad=0)
        options = {"seed": 0} | changes
        return train.fit(model, methods.mask(model, LORA), objective, CONFIG, **options)

    @pytest.mark.parametrize("name", sorted(metrics.LOWER_IS_BETTER))
    def test_keeps_the_epoch_of_the_lowest_loss(self, name, model, encoded, same):
        scores, kept = iter([3.0, 1.0, 2.0]), []

        def score(model):
            kept.append(jax.tree.map(np.array, model))
            return {name: next(scores), "accuracy": 0.0}

        done = self.fit(model, encoded, score=score)
        assert done.best_epoch == 2 and same(done.model, kept[1])

    def test_learns_and_leaves_the_bits_as_they_are(self, model, encoded, same):
        before = jax.tree.map(np.array, tree.split(model, methods.mask(model, LORA))[1])
        done = self.fit(model, encoded, seed=1)
        trainable, frozen = tree.split(done.model, methods.mask(model, LORA))
        assert same(jax.tree.map(np.array, frozen), before) and quant.quantized_leaves(
            frozen
        )
        assert not same(trainable, tree.split(model, methods.mask(model, LORA))[0])
        assert (
            len(done.losses) == 9 and done.losses[-3:].mean() < done.losses[:3].mean()
        )
