"""The attention layer: its cache, its prefix, its rotation and its keys, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax.nn.attention import Attention, AttentionContext, Cache, rotate
from lora_jax.nn.layers import Linear
from lora_jax.nn.visibility import Visibility

KEY = jax.random.key(0)
CAUSAL = Visibility(first_query=0)


def test_the_cache_is_written_from_an_index_on():
    empty = Cache(*jnp.zeros((2, 1, 1, 4, 2)))
    ones = jnp.ones((1, 1, 2, 2))
    cache = empty.store(ones, 2 * ones, 1)
    # One row and one head; both numbers of a token are alike.
    keys = cache.keys[0, 0, :, 0]
    values = cache.values[0, 0, :, 1]
    assert keys.tolist() == [0, 1, 1, 0]
    assert values.tolist() == [0, 2, 2, 0]


def test_a_prefix_is_attended_to_by_every_token():
    identity = Linear(jnp.eye(2))
    layer = Attention(identity, identity, identity, identity, heads=1)
    x = jnp.zeros((1, 3, 2))
    prefix_keys = jnp.zeros((1, 1, 1, 2))
    prefix_values = jnp.full((1, 1, 1, 2), 12.0)

    # All scores are 0: token t has the mean of the prefix and t + 1 zeros.
    mixed, cache = layer(
        x,
        x,
        AttentionContext(CAUSAL),
        prefix=(prefix_keys, prefix_values),
    )
    np.testing.assert_allclose(mixed[0, :, 0], [6, 4, 3], rtol=1e-6)
    assert cache is None


class TestRotate:
    X = jnp.array([[[[1.0, 2.0, 0.0, 0.0]]]])

    def rotated(self, position):
        frequencies = jnp.array([[[[np.pi / 2, 0.1]]]])
        angles = position * frequencies
        rotary = jnp.cos(angles), jnp.sin(angles)
        return rotate(self.X, rotary)

    def test_it_turns_pairs_half_a_head_apart(self):
        expected = [0, 2 * np.cos(0.1), 1, 2 * np.sin(0.1)]
        numbers = self.rotated(1.0)[0, 0, 0]
        np.testing.assert_allclose(numbers, expected, atol=1e-6)

    def test_scores_depend_on_the_distance_alone(self):
        scores = []
        for position in range(4):
            query = self.rotated(position)
            key = self.rotated(position + 3.0)
            score = jnp.sum(query * key)
            scores.append(float(score))
        np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


def test_each_part_draws_its_dropout_from_a_key_of_its_own(monkeypatch):
    keys = []

    def record_layer(x, key):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return x

    def record_dropout(key, rate, x):
        return record_layer(x, key)

    monkeypatch.setattr("lora_jax.nn.plain_attention.dropout", record_dropout)
    layer = Attention(record_layer, record_layer, record_layer, record_layer, heads=2)
    x = jnp.ones((1, 3, 8))
    layer(x, x, AttentionContext(Visibility()), rate=0.5, key=KEY)
    # Query, key, value, the weights and the output.
    assert len(set(keys)) == len(keys) == 5
