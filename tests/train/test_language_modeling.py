"""The loss of a language model: which tokens it is about, and training on it."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from lora_jax import data, methods, metrics, quant, train, tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.train import language_modeling
from tests.models.small_decoders import small_llama

LORA = methods.lora("query,value", 4)
# Three steps an epoch.
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=3, batch=4)
PLAIN = train.StepConfig()
KEY = jax.random.key(0)

loss = jax.jit(language_modeling.loss, static_argnames="config")
gradient = jax.jit(train.gradient, static_argnames=("loss", "config"))


@pytest.fixture(scope="module")
def encoded() -> data.Encoded:
    """Ten rows of 3 to 12 tokens, of which the last two to five are the target."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 13, 10)
    segments = []
    for size in sizes:
        # The first token is never a target.
        first = max(1, size - rng.integers(2, 6))
        segments.append(np.arange(size) >= first)
    offsets = np.concatenate([[0], sizes.cumsum()])
    return data.Encoded(
        tokens=rng.integers(0, 50, offsets[-1]).astype(np.int32),
        segments=np.concatenate(segments).astype(np.int32),
        offsets=offsets,
        label=np.zeros(10, np.int32),
    )


@pytest.fixture(scope="module")
def batch(encoded) -> data.Batch:
    """Four rows, of which two only fill it up."""
    offsets = encoded.offsets[:3]
    label = encoded.label[:2]
    two = encoded._replace(offsets=offsets, label=label)
    return next(data.batches(two, size=4, widths=(16,), seed=None, pad=0))


@pytest.fixture(scope="module")
def nats(encoded) -> list[list[float]]:
    """The loss of each row's target tokens, each predicted from those before it."""
    rows = list(itertools.pairwise(encoded.offsets))
    tokens = np.full((10, 12), 49, np.int32)
    for row, (start, end) in enumerate(rows):
        size = end - start
        tokens[row, :size] = encoded.tokens[start:end]
    # Each row's logits at t are of the token at t + 1.
    logits = jax.jit(Decoder.__call__)(small_llama(), tokens, encoded.lengths)
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))

    losses = []
    for row, (start, end) in enumerate(rows):
        row_losses = []
        for position in range(1, end - start):
            if encoded.segments[start + position]:
                token = tokens[row, position]
                row_losses.append(-log_probabilities[row, position - 1, token])
        losses.append(row_losses)
    return losses


class TestLoss:
    def test_it_is_that_of_the_target_tokens(self, encoded, batch, nats):
        total, count = loss(small_llama(), batch, PLAIN)
        targets = nats[0] + nats[1]
        # Of the batch's two rows.
        stop = encoded.offsets[2]
        assert len(targets) == encoded.segments[:stop].sum()
        assert float(count) == len(targets)
        assert float(total) == pytest.approx(sum(targets), rel=1e-5)

    def test_padding_of_rows_and_of_the_batch_does_not_count(self, batch):
        is_row = batch.weight[:, None] > 0
        is_text = np.arange(16) < batch.length[:, None]
        tokens = np.where(is_row, batch.tokens, 7)
        segments = np.where(is_text, batch.segments, 1)
        assert (tokens != batch.tokens).any()
        assert (segments != batch.segments).any()
        changed = batch._replace(tokens=tokens, segments=segments)

        total, count = loss(small_llama(), batch, PLAIN)
        changed_total, changed_count = loss(small_llama(), changed, PLAIN)
        assert float(changed_total) == pytest.approx(float(total), rel=1e-6)
        assert float(changed_count) == float(count)

    def test_bfloat16_is_close(self, batch):
        exact, _ = loss(small_llama(), batch, PLAIN)
        config = PLAIN._replace(compute_dtype="bfloat16")
        rounded, _ = loss(small_llama(), batch, config)
        error = abs(float(exact - rounded))
        assert 0 < error < 0.02 * float(exact)

    def test_nothing_predicts_the_first_token(self, batch):
        # All tokens are targets, the first ones too.
        all_marked = batch._replace(segments=np.ones_like(batch.segments))
        _, count = loss(small_llama(), all_marked, PLAIN)
        lengths = batch.length[batch.weight > 0]
        assert float(count) == (lengths - 1).sum()

    def test_perplexity_by_hand(self, encoded, nats):
        scores = language_modeling.evaluate(
            small_llama(), encoded, size=4, widths=(16,), pad=0, compute_dtype="float32"
        )
        mean = np.mean(list(itertools.chain(*nats)))
        expected = {"loss": mean, "perplexity": np.exp(mean)}
        assert scores == pytest.approx(expected, rel=1e-5)
        # An epoch is chosen by the first.
        assert list(scores) == ["loss", "perplexity"]


@pytest.fixture(scope="module")
def model() -> Any:
    """A model with adapters that are not at their start, on a quantized base."""

    @jax.jit
    def adapt(base):
        return LORA.adapt(jax.random.key(1), quant.quantize_model(base, "int8"))

    model = adapt(small_llama())
    moved = {}
    for path, leaf in tree.find(model, "lora_b$").items():
        moved[path] = leaf + 0.1
    return tree.replace(model, moved)


def split(model: Any) -> tuple[Any, Any]:
    return tree.split(model, methods.mask(model, LORA))


class TestStep:
    def test_it_passes_its_configuration_to_the_loss(self, batch):
        config = PLAIN._replace(label_smoothing=0.2, compute_dtype="bfloat16")
        cast = precision.cast_kernels(small_llama(), "bfloat16")
        total, count = loss(cast, batch, config)
        plain_total, _ = loss(cast, batch, config._replace(label_smoothing=0.0))
        assert abs(float(total - plain_total)) > 0.1

        mask = methods.mask(small_llama(), methods.full())
        trainable, frozen = tree.split(small_llama(), mask)
        value, _ = gradient(
            trainable,
            frozen,
            batch,
            KEY,
            loss=language_modeling.loss,
            config=config,
        )
        np.testing.assert_allclose(value, total / count, rtol=1e-5)

    def test_two_micro_batches_make_the_gradient_of_one(self, model, encoded):
        batch = next(data.batches(encoded, size=4, widths=(16,), seed=0, pad=0))
        # The micro-batches have unlike numbers of targets, by which they are weighted.
        even_rows = batch.segments[0::2]
        odd_rows = batch.segments[1::2]
        assert even_rows.sum() != odd_rows.sum()

        trainable, frozen = split(model)
        results = []
        for accumulate in (1, 2):
            result = gradient(
                trainable,
                frozen,
                batch,
                KEY,
                loss=language_modeling.loss,
                config=PLAIN._replace(accumulate=accumulate),
            )
            results.append(jax.tree.leaves(result))
        for one, two in zip(*results, strict=True):
            assert np.abs(one).max() > 1e-6
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)


def fit(model: Any, encoded: data.Encoded, *, seed: int = 0, **options) -> train.Fit:
    objective = train.Objective(language_modeling.loss, encoded, (16,), pad=0)
    mask = methods.mask(model, LORA)
    return train.fit(model, mask, objective, CONFIG, seed=seed, **options)


class TestFit:
    @pytest.mark.parametrize("name", sorted(metrics.LOWER_IS_BETTER))
    def test_the_epoch_of_the_lowest_loss_is_kept(self, name, model, encoded, same):
        script = iter([3.0, 1.0, 2.0])
        models = []

        def score(model):
            models.append(jax.tree.map(np.array, model))
            return {name: next(script), "accuracy": 0.0}

        result = fit(model, encoded, score=score)
        assert result.best_epoch == 2
        assert same(result.model, models[1])

    def test_it_learns_and_leaves_the_quantized_base_alone(self, model, encoded, same):
        trainable_before, frozen_before = split(model)
        frozen_before = jax.tree.map(np.array, frozen_before)
        result = fit(model, encoded, seed=1)
        trainable, frozen = split(result.model)
        assert quant.quantized_leaves(frozen)
        assert same(jax.tree.map(np.array, frozen), frozen_before)
        assert not same(trainable, trainable_before)
        assert len(result.losses) == 9
        first_epoch = result.losses[:3]
        last_epoch = result.losses[-3:]
        assert last_epoch.mean() < first_epoch.mean()
