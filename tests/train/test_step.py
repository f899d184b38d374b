"""One step: what the compiled program holds, its optimizer, micro-batches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lora_jax import data, methods, train, tree
from lora_jax.train import classification
from tests.train.jaxprs import equations, output_shapes

LORA = methods.lora(rank=4)
CONFIG = train.StepConfig(weight_decay=0.1, clip=1.0)
LOSS = classification.loss
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model(tiny):
    return LORA.adapt(jax.random.key(1), tiny())


def arguments(
    model: Any,
    method: methods.Method,
    batch: data.Batch,
    config: train.StepConfig = CONFIG,
) -> tuple:
    """Return what `train_step` takes by position."""
    trainable, frozen = tree.split(model, methods.mask(model, method))
    # The step takes the memory of the tree it is passed.
    trainable = jax.tree.map(jnp.copy, trainable)
    state = train.optimizer(config).init(trainable)
    rate = jnp.float32(0.01)
    return trainable, state, frozen, batch, rate, KEY


def shapes(arrays: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a tree's leaves by path."""
    leaves = tree.leaves(arrays)
    return {path: leaf.shape for path, leaf in leaves.items()}


def weight_gradients(
    model: Any, method: methods.Method, batch: data.Batch
) -> set[tuple[int, ...]]:
    """Return the shapes of matrices whose gradient the step may compute.

    That is, of those that a product of the step has the shape of.
    """
    step = train.train_step.trace(
        *arguments(model, method, batch), loss=LOSS, config=CONFIG
    )
    products = set()
    for equation in equations(step.jaxpr.jaxpr):
        if equation.primitive.name == "dot_general":
            for shape in output_shapes(equation):
                # The gradient of a matrix has no batch axis.
                if math.prod(shape[:-2]) == 1:
                    products.add(shape[-2:])
    kernels = set()
    for path, shape in shapes(model).items():
        matrix = shape[-2:]
        is_product = matrix in products or matrix[::-1] in products
        if path.endswith("kernel") and is_product:
            kernels.add(matrix)
    return kernels


class TestFreeze:
    """What is frozen is not among what the compiled step computes."""

    def test_it_returns_the_trainable_leaves_and_their_moments_only(self, model, batch):
        trainable, state, frozen, *others = arguments(model, LORA, batch)
        lowered = train.train_step.lower(
            trainable, state, frozen, *others, loss=LOSS, config=CONFIG
        )
        outputs = lowered.out_info
        new_trainable, new_state, loss = outputs
        assert shapes(new_trainable) == shapes(trainable)
        assert loss.shape == ()
        frozen_shapes = set(shapes(frozen).values())
        for leaf in jax.tree.leaves((new_trainable, new_state)):
            assert leaf.shape not in frozen_shapes

        memory = lowered.compile().memory_analysis()
        assert memory is not None
        leaves = jax.tree.leaves(outputs)
        numbers = sum(math.prod(leaf.shape) for leaf in leaves)
        # Pointers to all outputs, and to their tuple.
        pointers = 8 * (len(leaves) + 1)
        assert memory.output_size_in_bytes <= 4 * numbers + pointers

    def test_it_computes_no_gradient_of_a_frozen_matrix(self, model, batch):
        frozen = {(16, 16), (16, 32), (32, 16)}
        assert not weight_gradients(model, LORA, batch) & frozen
        # With full fine-tuning the test does see them.
        plain = methods.unload(model)
        assert weight_gradients(plain, methods.full(), batch) >= frozen

    def test_the_optimizer_holds_two_numbers_a_trainable_one_and_a_count(
        self, model, batch
    ):
        trainable, state, *_ = arguments(model, LORA, batch)
        assert tree.count(state) == 2 * tree.count(trainable) + 1


class TestOptimizer:
    def test_weight_decay_spares_biases_and_norms(self, tiny):
        method = methods.lora(bias="all")
        model = method.adapt(KEY, tiny())
        decayed = set()
        spared = set()
        for path, is_decayed in tree.leaves(train.decay_mask(model)).items():
            name = path.split("/")[-1]
            (decayed if is_decayed else spared).add(name)
        assert spared == {"bias", "scale"}
        assert decayed >= {"kernel", "embedding", "lora_a", "lora_b"}

    @pytest.mark.parametrize(
        ("clip", "clipped"), [(1.0, [0.6, 0.8]), (0.0, [3.0, 4.0])]
    )
    def test_clipping_is_by_the_norm_of_the_gradient(self, clip, clipped):
        gradient = {"kernel": jnp.array([3.0, 4.0])}  # of norm 5
        optimizer = train.optimizer(CONFIG._replace(clip=clip))
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
        # Adam's first moment is a tenth of the first gradient.
        moment = optax.tree.get(state, "mu")["kernel"]
        np.testing.assert_allclose(moment, 0.1 * np.array(clipped), rtol=1e-6)


class TestBatch:
    def test_four_micro_batches_make_the_step_of_one_batch(self, model, examples):
        offsets = examples.offsets[:7]
        label = examples.label[:6]
        six = examples._replace(offsets=offsets, label=label)
        batch = next(data.batches(six, size=8, widths=(16,), seed=None, pad=1))
        # The last micro-batch has no row of its own.
        assert batch.weight.tolist() == [1] * 6 + [0] * 2

        results = []
        for config in (CONFIG, CONFIG._replace(accumulate=4)):
            values = arguments(model, LORA, batch, config)
            result = train.train_step(*values, loss=LOSS, config=config)
            results.append(jax.tree.leaves(result))
        for one, four in zip(*results, strict=True):
            np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-6)

    def test_rows_of_weight_zero_do_not_count(self, model, batch):
        trainable, _, frozen, *_ = arguments(model, LORA, batch)
        # Away from the start, where A has no gradient.
        trainable = jax.tree.map(lambda leaf: leaf + 0.1, trainable)
        weight = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)
        half = batch._replace(weight=weight)
        # In the rows of weight 0, other tokens.
        is_row = weight[:, None] > 0
        changed = half._replace(tokens=np.where(is_row, half.tokens, 7))

        gradient = jax.jit(train.gradient, static_argnames=("loss", "config"))
        results = []
        for rows in (half, changed):
            result = gradient(
                trainable,
                frozen,
                rows,
                KEY,
                loss=LOSS,
                config=CONFIG,
            )
            results.append(jax.tree.leaves(result))
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)

    def test_the_gradient_is_that_of_the_mean_loss(self, model, batch):
        # Adam does not care for its scale, but clipping does.
        trainable, _, frozen, *_ = arguments(model, LORA, batch)

        def mean_loss(trainable):
            total, count = LOSS(tree.merge(trainable, frozen), batch, CONFIG)
            return total / count

        expected = jax.jit(jax.grad(mean_loss))(trainable)
        compiled = jax.jit(train.gradient, static_argnames=("loss", "config"))
        _, gradients = compiled(trainable, frozen, batch, KEY, loss=LOSS, config=CONFIG)
        leaves = zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True)
        for ours, theirs in leaves:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)

    def test_micro_batches_draw_their_dropout_from_keys_of_their_own(
        self, model, batch
    ):
        def loss(model, batch, config, key):
            # The loss is a number of the key, so that two keys have two losses.
            number = jax.random.uniform(key)
            head = jnp.sum(jax.tree.leaves(model)[0]) * 0
            return number + head, jnp.float32(1)

        trainable, _, frozen, *_ = arguments(model, LORA, batch)
        config = CONFIG._replace(accumulate=2)
        value, _ = train.gradient(
            trainable, frozen, batch, KEY, loss=loss, config=config
        )
        numbers = [jax.random.uniform(jax.random.fold_in(KEY, i)) for i in range(2)]
        np.testing.assert_allclose(value, np.mean(numbers), rtol=1e-6)
