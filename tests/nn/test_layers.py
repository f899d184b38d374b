"""The layers against a few numbers done by hand and plain numpy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.nn.attention import Cache, attention, heads_first, rotate
from lora_jax.nn.blocks import Stacks, layer_count, scan_blocks, without_last
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import (
    ACTIVATIONS,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    dropout,
    fold_key,
)

KEY = jax.random.key(0)


def test_linear_by_hand():
    layer = Linear(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([10.0, 20.0]))
    assert layer(jnp.array([1.0, 1.0])).tolist() == [14, 26]
    assert Linear(layer.kernel[...])(jnp.array([1.0, -1.0])).tolist() == [-2, -2]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_are_in_the_dtype_of_their_input(dtype):
    x, kernel = jnp.ones((2, 3), dtype), jnp.ones((3, 4), jnp.float32)
    assert dense(x, kernel).dtype == Linear(kernel, jnp.ones(4))(x).dtype == dtype
    assert LayerNorm(jnp.ones(3), jnp.ones(3), epsilon=1e-6)(x).dtype == dtype


@pytest.mark.parametrize(
    "of", [0, 1, (0, 1)]
)  # a frozen kernel's gradient is not even asked for
def test_a_bfloat16_kernel_s_gradients_are_those_of_float32_rounded(of):
    x, weights = (
        jax.random.normal(KEY, (2, 5, 8)),
        jax.random.normal(jax.random.key(1), (2, 5, 4)),
    )
    kernel = jax.random.normal(jax.random.key(2), (8, 4)).astype(jnp.bfloat16)
    gradient = jax.grad(lambda x, kernel: jnp.sum(dense(x, kernel) * weights), of)
    found, wanted = (
        jax.tree.leaves(gradient(x, w)) for w in (kernel, kernel.astype(jnp.float32))
    )
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == (x.dtype if a.shape == x.shape else kernel.dtype)
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05, rtol=0.02)


def test_embedding_gives_rows():
    table = Embedding(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    assert table(jnp.array([[1, 0], [1, 1]])).tolist() == [
        [[3, 4], [1, 2]],
        [[3, 4], [3, 4]],
    ]


def test_layer_norm_by_hand():
    # (1, 3): mean 2, variance 1; with epsilon 3 the root is 2: (-1/2, 1/2), times (2, 4), plus (1, 0)
    layer = LayerNorm(jnp.array([2.0, 4.0]), jnp.array([1.0, 0.0]), epsilon=3.0)
    np.testing.assert_allclose(layer(jnp.array([1.0, 3.0])), [0, 2], atol=1e-6)


def test_layer_norm_of_values_far_from_zero():
    x = 1000 + np.random.default_rng(0).normal(size=(4, 64))
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    found = LayerNorm(jnp.ones(64), jnp.zeros(64), epsilon=1e-6)(
        jnp.asarray(x, jnp.float32)
    )
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # float32 holds 1000 to 6e-5


def test_layer_norm_s_gradient_is_the_difference_quotient():
    layer = LayerNorm(jnp.array([2.0, 4.0, 1.0]), jnp.zeros(3), epsilon=0.1)
    x, step = np.array([1.0, 3.0, -2.0]), 1e-2

    def f(x):
        return float(jnp.sum(layer(jnp.float32(x)) ** 3))

    slopes = [
        (f(x + step * unit) - f(x - step * unit)) / (2 * step) for unit in np.eye(3)
    ]
    np.testing.assert_allclose(
        jax.grad(lambda x: jnp.sum(layer(x) ** 3))(jnp.float32(x)),
        slopes,
        rtol=0.01,
        atol=0.05,
    )


def test_activations():
    x = np.linspace(-4, 4, 17)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    close = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    wanted = {
        "gelu": exact,
        "gelu_new": close,
        "relu": np.maximum(x, 0),
        "silu": x / (1 + np.exp(-x)),
    }
    assert set(ACTIVATIONS) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(
            ACTIVATIONS[name](jnp.float32(x)), values, atol=2e-6, err_msg=name
        )


class TestDropout:
    def test_nothing_without_key_or_rate(self):
        x = jnp.arange(5.0)
        assert dropout(None, 0.5, x) is x and dropout(KEY, 0, x) is x

    def test_zeroes_a_share_and_keeps_the_mean(self):
        x = dropout(KEY, 0.25, jnp.ones(40_000))
        assert np.unique(np.asarray(x).round(4)).tolist() == pytest.approx(
            [0, 4 / 3], abs=1e-4
        )
        assert float(x.mean()) == pytest.approx(
            1, abs=0.015
        )  # five standard deviations

    def test_no_key_stays_no_key(self):
        assert fold_key(None, 3) is None
        assert fold_key(KEY, 3) == jax.random.fold_in(KEY, 3) != fold_key(KEY, 4)


def by_numpy(query, key, value, mask, heads):
    """Softmax attention, one row, head and query at a time."""
    out = np.zeros(query.shape)
    width = query.shape[-1] // heads
    for row, token, head in np.ndindex(*query.shape[:2], heads):
        own = slice(head * width, (head + 1) * width)
        seen = np.flatnonzero(mask[row, min(token, mask.shape[1] - 1)])
        scores = key[row, seen, own] @ query[row, token, own] / math.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[row, token, own] = weights / weights.sum() @ value[row, seen, own]
    return out


def attend(query, key, value, mask, *, heads, **options):
    return attention(
        *(heads_first(jnp.float32(x), heads) for x in (query, key, value)),
        jnp.asarray(mask),
        **options,
    )


class TestAttention:
    def test_equal_scores_give_the_mean_of_what_is_seen(self):
        value = jnp.array([[[1.0, 10.0], [3.0, 30.0], [100.0, 1000.0]]])
        mask = jnp.array([[[True, True, False]]])
        assert attend(
            jnp.zeros((1, 1, 2)), jnp.zeros((1, 3, 2)), value, mask, heads=1
        ).tolist() == [[[2, 20]]]

    @settings(deadline=None, max_examples=10)
    @given(st.integers(0, 2**32), st.sampled_from([1, 2, 4]))
    def test_is_numpy_s(self, seed, heads):
        rng = np.random.default_rng(seed)
        query, key, value = (rng.normal(size=(2, tokens, 8)) for tokens in (3, 5, 5))
        mask = np.arange(5) < rng.integers(1, 6, (2, 1, 1))
        found = attend(query, key, value, mask, heads=heads)
        np.testing.assert_allclose(
            found, by_numpy(query, key, value, mask, heads), atol=1e-5
        )

    def test_a_mask_may_differ_by_query(self):
        rng = np.random.default_rng(0)
        query, key, value = rng.normal(size=(3, 1, 4, 4))
        mask = np.tril(np.ones((1, 4, 4), bool))
        found = attend(query, key, value, mask, heads=2)
        np.testing.assert_allclose(
            found, by_numpy(query, key, value, mask, 2), atol=1e-5
        )

    def test_dropout_of_the_weights_has_their_mean(self):
        query, two, mask = (
            jnp.ones((2000, 1, 1)),
            jnp.ones((2000, 2, 1)),
            jnp.ones((2000, 1, 2), bool),
        )
        found = attend(query, two, two, mask, heads=1, rate=0.5, random=KEY)
        assert np.unique(found).tolist() == [0, 1, 2]
        assert float(found.mean()) == pytest.approx(1, abs=0.08)

    def test_heads_of_queries_share_those_of_keys(self):
        rng = np.random.default_rng(0)
        query, key, value = rng.normal(size=(2, 3, 8)), *rng.normal(size=(2, 2, 5, 4))
        mask = np.ones((2, 1, 5), bool)
        found = attention(
            heads_first(jnp.float32(query), 4),
            *(heads_first(jnp.float32(x), 2) for x in (key, value)),
            mask,
        )
        key, value = (
            np.repeat(x.reshape(2, 5, 2, 2), 2, axis=2).reshape(2, 5, 8)
            for x in (key, value)
        )
        np.testing.assert_allclose(
            found, by_numpy(query, key, value, mask, 4), atol=1e-5
        )

    def test_the_cache_is_written_where_it_is_told(self):
        cache = Cache(*jnp.zeros((2, 1, 1, 4, 2))).store(
            jnp.ones((1, 1, 2, 2)), 2 * jnp.ones((1, 1, 2, 2)), 1
        )
        assert cache.keys[0, 0, :, 0].tolist() == [0, 1, 1, 0] and cache.values[
            0, 0, :, 1
        ].tolist() == [0, 2, 2, 0]


def test_rotary_positions_turn_pairs_and_leave_scores_to_the_distance():
    x = jnp.array([[[[1.0, 2.0, 0.0, 0.0]]]])

    def turned(position):
        angle = position * jnp.array([np.pi / 2, 0.1])[None, None, None]
        return rotate(x, (jnp.cos(angle), jnp.sin(angle)))

    np.testing.assert_allclose(
        turned(1.0)[0, 0, 0], [0, 2 * np.cos(0.1), 1, 2 * np.sin(0.1)], atol=1e-6
    )
    scores = [float((turned(i) * turned(i + 3.0)).sum()) for i in range(4)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


def test_rms_norm_by_hand():
    layer = RMSNorm(jnp.array([1.0, 2.0]), epsilon=0.5)
    np.testing.assert_allclose(
        layer(jnp.array([3.0, 4.0])), np.array([3.0, 8.0]) / math.sqrt(13), rtol=1e-6
    )


class TestThrough:
    BLOCKS = Linear(jnp.arange(1.0, 4.0)[:, None, None])  # three layers: times 1, 2, 3

    def run(self, blocks, **options):
        def step(x, index, block, more):
            return block(x) + index, None if more is None else more + index

        return scan_blocks(step, jnp.ones(1), blocks, **options)

    @pytest.mark.parametrize("unroll", [False, True])
    def test_every_layer_in_order_with_its_index(self, unroll):
        x, other = self.run(self.BLOCKS, caches=jnp.array([10, 20, 30]), unroll=unroll)
        assert x.tolist() == [(1 * 2 + 1) * 3 + 2] and other.tolist() == [10, 21, 32]

    def test_two_stacks_and_single_layers_are_the_same(self):
        def part(*some):
            return jax.tree.map(lambda leaf: leaf[slice(*some)], self.BLOCKS)

        two = Stacks(part(0, 1), part(1, 3))
        single = tuple(
            jax.tree.map(lambda leaf, i=i: leaf[i], self.BLOCKS) for i in range(3)
        )
        for blocks, more in ((two, jnp.array([10, 20, 30])), (single, (10, 20, 30))):
            x, other = self.run(blocks, caches=more)
            assert (
                x.tolist() == [11]
                and [int(each) for each in other] == [10, 21, 32]
                and layer_count(blocks) == 3
            )
        most, last = without_last(two)
        assert layer_count(most) == 2 and last.kernel[...].tolist() == [[3]]
