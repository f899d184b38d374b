"""Attention: grouped queries, masks, rotary positions, and a cache for generation.

Shape letters are those of `layers.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from lora_jax.nn.layers import dropout, fold_key


def heads_first(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B H T K"]:
    """Return x with its heads before its tokens.

    Batched products over two leading axes are twice as fast on CPU.
    """
    batch, tokens, _ = x.shape
    by_head = x.reshape(batch, tokens, heads, -1)  # [B, T, H, K]
    return by_head.transpose(0, 2, 1, 3)


def _tokens_first(x: Float[Array, "B H T K"]) -> Float[Array, "B T D"]:
    batch, heads, tokens, head_dim = x.shape
    by_token = x.transpose(0, 2, 1, 3)
    return by_token.reshape(batch, tokens, heads * head_dim)


def attention(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S K"],
    mask: Bool[Array, "B #T S"],
    *,
    rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T D"]:
    """Return softmax attention; each of the G heads of keys serves H/G of queries.

    Args:
        query, key, value: heads first, as `heads_first` gives them.
        mask: true where a token may attend to a key.
        rate: share of the attention weights that is dropped.
        dropout_key: without one, nothing is dropped.
    """
    batch, heads, tokens, head_dim = query.shape
    kv_heads = key.shape[1]

    # Queries that share keys are rows of one product: M = H/G * T of them. Scaling the
    # queries is cheaper than scaling the scores.
    scaled = query * head_dim**-0.5
    rows = scaled.reshape(batch, kv_heads, -1, head_dim)  # [B, G, M, K]
    scores = jnp.einsum(
        "bgmk,bgsk->bgms",
        rows,
        key,
        preferred_element_type=jnp.float32,
    )
    scores = scores.reshape(batch, heads, tokens, -1)  # [B, H, T, S]
    weights = _masked_softmax(scores, mask).astype(value.dtype)
    weights = dropout(dropout_key, rate, weights)

    weights = weights.reshape(*rows.shape[:3], -1)  # [B, G, M, S]
    mixed = jnp.einsum("bgms,bgsk->bgmk", weights, value)
    by_head = mixed.reshape(batch, heads, tokens, head_dim)
    return _tokens_first(by_head).astype(query.dtype)


def _masked_softmax(scores, mask):
    # A masked score is the lowest number and not -inf: the softmax of a token that
    # attends to nothing would be NaN.
    lowest = jnp.finfo(jnp.float32).min
    scores = jnp.where(mask[:, None], scores, lowest)  # alike for all heads
    return jax.nn.softmax(scores, axis=-1)


class AttentionContext(NamedTuple):
    """Which tokens attend to which, and where they stand."""

    mask: Bool[Array, "B #T S"]  # true where a token may attend to a key
    rotary: tuple[Array, Array] | None = None  # cosines and sines, see `rotate`
    cache_index: Any = None  # of the first of the tokens


class Cache(NamedTuple):
    """Keys and values of the tokens so far; stacked layers have a leading axis L."""

    keys: Float[Array, "B G S K"]
    values: Float[Array, "B G S K"]

    def store(
        self,
        keys: Float[Array, "B G T K"],
        values: Float[Array, "B G T K"],
        index: Any,
    ) -> "Cache":
        """Return the cache with those of T tokens, the first of them at `index`."""
        return Cache(
            _write(self.keys, keys, index),
            _write(self.values, values, index),
        )


def _write(stored, new, index):
    start = (0, 0, index, 0)  # [B, G, S, K]
    return jax.lax.dynamic_update_slice(
        stored,
        new.astype(stored.dtype),
        start,
    )


class Attention(nnx.Module):
    """Attention with its four linear layers.

    `kv_heads` is the number of heads of keys and values: `heads`, or fewer in
    grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).

    Called, it returns what the queries of x attend to, and the cache with the keys and
    values of y. The arguments:

    * x, y: what queries are made of, and what keys and values are made of.
    * context: the mask, and where the tokens of y stand.
    * cache: keys and values of earlier tokens, which are attended to as well.
    * prefix: keys and values [B, G, P, K] that every token attends to.
    * rate, key: dropout of the weights; without a key nothing is dropped, in adapters
      of the four layers neither.
    """

    def __init__(
        self,
        query: Any,
        key: Any,
        value: Any,
        output: Any,
        *,
        heads: int,
        kv_heads: int | None = None,
    ):
        self.query = query
        self.key = key
        self.value = value
        self.output = output
        self.heads = heads
        self.kv_heads = kv_heads or heads

    def __call__(
        self,
        x: Float[Array, "B T D"],
        y: Float[Array, "B S D"],
        context: AttentionContext,
        cache: Cache | None = None,
        *,
        prefix: tuple[Array, Array] | None = None,
        rate: float = 0.0,
        key: Any = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        query, keys, values = self._project(x, y, key)
        # The keys in the cache are rotated already; a prefix has no position.
        if context.rotary is not None:
            query = rotate(query, context.rotary)
            keys = rotate(keys, context.rotary)
        if cache is not None:
            cache = cache.store(keys, values, context.cache_index)
            keys, values = cache

        mask = context.mask
        if prefix is not None:
            keys = _put_before(prefix[0], keys)
            values = _put_before(prefix[1], values)
            mask = _unmask(mask, prefix[0])

        mixed = attention(
            query,
            keys,
            values,
            mask,
            rate=rate,
            dropout_key=fold_key(key, 3),
        )
        return self.output(mixed, fold_key(key, 4)), cache

    def _project(self, x, y, key):
        # Each layer has a key of its own, for the dropout of its adapter.
        query = self.query(x, fold_key(key, 0))
        keys = self.key(y, fold_key(key, 1))
        values = self.value(y, fold_key(key, 2))
        return (
            heads_first(query, self.heads),
            heads_first(keys, self.kv_heads),
            heads_first(values, self.kv_heads),
        )


def _put_before(prefix, x):
    # Both are [B, G, tokens, K].
    both = [prefix.astype(x.dtype), x]
    return jnp.concatenate(both, axis=2)


def _unmask(mask, prefix):
    length = prefix.shape[2]
    padding = [(0, 0), (0, 0), (length, 0)]
    return jnp.pad(mask, padding, constant_values=True)


def rotate(
    x: Float[Array, "B H T K"],
    rotary: tuple[Array, Array],
) -> Float[Array, "B H T K"]:
    """Return x with rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    Numbers j and j + K/2 of a head are the pair that the j-th angle turns. `rotary` is
    the cosine and the sine of the angles, each [B, 1, T, K/2].
    """
    cos, sin = rotary
    first, second = jnp.split(x, 2, axis=-1)
    turned = [
        first * cos - second * sin,
        second * cos + first * sin,
    ]
    y = jnp.concatenate(turned, axis=-1)
    return y.astype(x.dtype)
