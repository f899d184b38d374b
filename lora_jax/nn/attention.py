"""Attention: its linear layers, rotary positions, and a cache for generation.

Shape letters are those of `layers.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lora_jax.nn.attend import attend
from lora_jax.nn.engine import PLAIN, Engine
from lora_jax.nn.layers import fold_key
from lora_jax.nn.visibility import Visibility


def heads_first(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B H T K"]:
    """Return x with its heads before its tokens.

    Batched products over two leading axes are twice as fast on CPU.
    """
    batch, tokens, _ = x.shape
    by_head = x.reshape(batch, tokens, heads, -1)  # [B, T, H, K]
    return by_head.transpose(0, 2, 1, 3)


class AttentionContext(NamedTuple):
    """Which tokens attend to which, where they stand, and how it is computed."""

    visibility: Visibility
    rotary: tuple[Array, Array] | None = None  # cosines and sines, see `rotate`
    cache_index: Any = None  # of the first of the tokens
    engine: Engine = PLAIN


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
    * context: which of y's tokens are attended to, and where they stand.
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

        visibility = context.visibility
        if prefix is not None:
            keys = _put_before(prefix[0], keys)
            values = _put_before(prefix[1], values)
            visibility = visibility.after(prefix[0].shape[2])

        mixed = attend(
            query,
            keys,
            values,
            visibility,
            context.engine,
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
