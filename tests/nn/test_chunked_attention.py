"""Attention a few tokens at a time is that of all at once, with its gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.nn.chunked_attention import chunked_attention
from lora_jax.nn.plain_attention import plain_attention
from lora_jax.nn.visibility import Visibility

KEY = jax.random.key(0)
# T is no multiple of the width; some rows have no key at all.
TOKENS, WIDTH = 11, 2
STOP = jnp.array([11, 4, 0])
START = jnp.array([0, 9, 3])
TEXTS = jnp.array([[0] * 5 + [1] * 6, [0] * 11, [0] + [1] * 9 + [2]])

CASES = {
    "all": (Visibility(), 11),
    "other keys than queries": (Visibility(), 5),
    "padding after": (Visibility(stop=STOP), 11),
    "causal": (Visibility(first_query=0), 11),
    "causal, padding after": (Visibility(stop=STOP, first_query=0), 11),
    "causal, padding before, room after": (Visibility(START, first_query=0), 14),
    "causal, a traced index": (Visibility(START, first_query=jnp.int32(2)), 14),
    "causal, an index": (Visibility(START, first_query=2), 14),
    "several texts": (Visibility(texts=TEXTS), 11),
    "causal, several texts": (Visibility(texts=TEXTS, first_query=0), 11),
    "a prefix": (Visibility(stop=STOP, prefix=3), 14),
    "causal, a prefix": (Visibility(stop=STOP, first_query=0, prefix=3), 14),
}


def draw(keys: int, dtype: Any = jnp.float32) -> tuple[Any, Any, Any]:
    """Four heads of queries and two of keys and values, of three rows."""
    query_key, key_key, value_key = jax.random.split(KEY, 3)
    query = jax.random.normal(query_key, (3, 4, TOKENS, 8), dtype)
    key = jax.random.normal(key_key, (3, 2, keys, 8), dtype)
    value = jax.random.normal(value_key, (3, 2, keys, 8), dtype)
    return query, key, value


def mask_of(query: Any, key: Any, visibility: Visibility) -> Any:
    return visibility.matrix(jnp.arange(query.shape[2]), jnp.arange(key.shape[2]))


def plain(query: Any, key: Any, value: Any, visibility: Visibility) -> Any:
    return plain_attention(query, key, value, mask_of(query, key, visibility))


def with_gradients(
    attention: Any, tensors: Any, visibility: Visibility
) -> list[np.ndarray]:
    """The attention, and the gradients of a weighted sum of it.

    Tokens that attend to nothing, whose numbers mean nothing, have a weight of 0.
    """
    query, key, _ = tensors
    rows, heads, tokens, head_dim = query.shape
    weights = jax.random.normal(KEY, (rows, tokens, heads * head_dim))
    sees_any = mask_of(query, key, visibility).any(-1, keepdims=True)

    @jax.jit
    def total(tensors):
        mixed = attention(*tensors, visibility=visibility).astype(jnp.float32)
        weighted = jnp.where(sees_any, mixed * weights, 0)
        return weighted.sum(), weighted

    gradients, mixed = jax.grad(total, has_aux=True)(tensors)
    return [np.asarray(leaf, np.float32) for leaf in (mixed, *gradients)]


@pytest.mark.parametrize("case", CASES)
def test_it_is_plain_attention(case):
    visibility, keys = CASES[case]
    tensors = draw(keys)
    expected = with_gradients(plain, tensors, visibility)
    chunked = partial(chunked_attention, width=WIDTH)
    leaves = with_gradients(chunked, tensors, visibility)
    for actual, leaf in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(actual, leaf, rtol=1e-6, atol=1e-6)


def test_a_token_that_attends_to_nothing_is_finite():
    visibility, keys = CASES["causal, padding after"]
    chunked = partial(chunked_attention, width=WIDTH, visibility=visibility)
    gradient = jax.jit(jax.grad(lambda tensors: chunked(*tensors).sum()))
    tensors = draw(keys)
    for leaf in (chunked(*tensors), *gradient(tensors)):
        assert np.isfinite(leaf).all()


def test_in_bfloat16_both_are_off_by_the_rounding_of_their_results():
    visibility, keys = CASES["causal, padding after"]
    tensors = draw(keys, jnp.bfloat16)
    expected = with_gradients(plain, tensors, visibility)
    chunked = partial(chunked_attention, width=WIDTH)
    leaves = with_gradients(chunked, tensors, visibility)
    for actual, leaf in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(actual, leaf, rtol=2**-6, atol=2**-6)


def test_cells_share_a_program():
    visibility, keys = CASES["causal"]
    tensors = draw(keys)
    doubled = tuple(jnp.stack([leaf, 2 * leaf]) for leaf in tensors)
    chunked = partial(chunked_attention, width=WIDTH, visibility=visibility)
    together = jax.jit(jax.vmap(chunked))(*doubled)
    for index, factor in enumerate((1, 2)):
        alone = plain(*(factor * leaf for leaf in tensors), visibility)
        np.testing.assert_allclose(together[index], alone, rtol=1e-5, atol=1e-6)


class TestDropout:
    VISIBILITY = Visibility()
    TENSORS = draw(5)

    def dropped(self, key: Any) -> Any:
        return chunked_attention(
            *self.TENSORS, self.VISIBILITY, width=WIDTH, rate=0.5, dropout_key=key
        )

    def test_it_depends_on_the_key_alone(self):
        first = self.dropped(KEY)
        assert np.array_equal(first, self.dropped(KEY))
        assert not np.allclose(first, self.dropped(jax.random.key(1)))

    def test_chunks_drop_other_weights(self):
        query, key, value = self.TENSORS
        # All queries alike, so that chunks differ by what they drop alone.
        alike = jnp.broadcast_to(query[:, :, :1], query.shape)
        mixed = chunked_attention(
            alike, key, value, self.VISIBILITY, width=2, rate=0.5, dropout_key=KEY
        )
        assert not np.allclose(mixed[:, :2], mixed[:, 2:4])

    def test_the_backward_pass_drops_the_same(self):
        _, key, value = self.TENSORS
        query = self.TENSORS[0]

        def total(value):
            mixed = chunked_attention(
                query,
                key,
                value,
                self.VISIBILITY,
                width=WIDTH,
                rate=0.5,
                dropout_key=KEY,
            )
            return mixed.sum()

        # It is linear in the values.
        product = (jax.grad(total)(value) * value).sum()
        np.testing.assert_allclose(product, total(value), rtol=1e-5)


def test_the_scores_never_exist_at_once():
    tokens = 512
    shape = jax.ShapeDtypeStruct((1, 2, tokens, 8), "float32")

    def temporary(attention: Any) -> int:
        gradient = jax.jit(jax.grad(lambda *x: attention(*x).sum(), argnums=(0, 1, 2)))
        memory = gradient.lower(shape, shape, shape).compile().memory_analysis()
        return memory.temp_size_in_bytes

    visibility = Visibility(first_query=0)
    scores = 2 * tokens**2 * 4
    chunked = partial(chunked_attention, visibility=visibility, width=32)
    assert temporary(chunked) < scores
    assert temporary(partial(plain, visibility=visibility)) > scores
