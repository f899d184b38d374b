"""Attention: grouped-query, masked, with rotary positions and a cache for generation. Shape letters are those of `layers.py`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from lora_jax.nn.layers import dropout, fold_key


def heads_first(x: Float[Array, "B T D"], heads: int) -> Float[Array, "B H T K"]:
    """The heads of x prefix its tokens: batched products over two leading axes are twice as fast on CPU."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attention(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S K"],
    mask: Bool[Array, "B #T S"],
    *,
    rate: float = 0.0,
    random: Key[Array, ""] | None = None,
) -> Float[Array, "B T D"]:
    """Softmax attention; `mask` is true where a key may be attended to. Each of the G heads of keys serves H/G of queries."""
    b, h, t, k = query.shape
    grouped = (query * k**-0.5).reshape(
        b, key.shape[1], -1, k
    )  # queries that share keys are rows of one product
    scores = jnp.einsum(
        "bgmk,bgsk->bgms", grouped, key, preferred_element_type=jnp.float32
    )
    scores = jnp.where(
        mask[:, None], scores.reshape(b, h, t, -1), jnp.finfo(jnp.float32).min
    )
    weights = dropout(random, rate, jax.nn.softmax(scores, axis=-1).astype(value.dtype))
    mixed = jnp.einsum(
        "bgms,bgsk->bgmk", weights.reshape(*grouped.shape[:3], -1), value
    )
    return (
        mixed.reshape(b, h, t, k)
        .transpose(0, 2, 1, 3)
        .reshape(b, t, h * k)
        .astype(query.dtype)
    )


class AttentionContext(NamedTuple):
    """Where the tokens stand that attention is asked for."""

    mask: Bool[Array, "B #T S"]  # the keys each may attend to
    rotary: tuple[Float[Array, "B 1 T J"], Float[Array, "B 1 T J"]] | None = (
        None  # see `rotate`
    )
    cache_index: Any = None  # the first one's index in the cache


class Cache(NamedTuple):
    """Keys and values of the tokens so far; with a leading layer axis for a stack of layers."""

    keys: Float[Array, "B G S K"]
    values: Float[Array, "B G S K"]

    def store(
        self, keys: Float[Array, "B G T K"], values: Float[Array, "B G T K"], at: Any
    ) -> "Cache":
        """With these of the tokens from index `at` on."""
        new = zip(self, (keys, values), strict=True)
        return Cache(
            *(
                jax.lax.dynamic_update_slice(old, x.astype(old.dtype), (0, 0, at, 0))
                for old, x in new
            )
        )


class Attention(nnx.Module):
    """Attention of `heads` heads of queries over `kv_heads` of keys and values (as many, but for grouped-query attention,
    Ainslie et al. 2023, arXiv 2305.13245)."""

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
        self.query, self.key, self.value, self.output = query, key, value, output
        self.heads, self.kv_heads = heads, kv_heads or heads

    def __call__(
        self,
        x,
        y,
        context: AttentionContext,
        cache: Cache | None = None,
        *,
        prefix=None,
        rate=0.0,
        key=None,
    ):
        """From x [B T D] to y [B S D]: queries of x, keys and values of y; what it gives [B T D], and the cache with those of y.

        `prefix` (keys and values [B G P K]) is attended to by all.
        """
        q, k, v = (
            heads_first(layer(each, fold_key(key, i)), heads)
            for i, (layer, each, heads) in enumerate(
                [
                    (self.query, x, self.heads),
                    (self.key, y, self.kv_heads),
                    (self.value, y, self.kv_heads),
                ]
            )
        )
        if context.rotary is not None:
            q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        if cache is not None:
            cache = cache.store(k, v, context.cache_index)
            k, v = cache
        mask = context.mask
        if prefix is not None:
            k, v = (
                jnp.concatenate([first.astype(then.dtype), then], 2)
                for first, then in zip(prefix, (k, v), strict=True)
            )
            mask = jnp.pad(
                mask, [(0, 0), (0, 0), (prefix[0].shape[2], 0)], constant_values=True
            )
        mixed = attention(q, k, v, mask, rate=rate, random=fold_key(key, 3))
        return self.output(mixed, fold_key(key, 4)), cache


def rotate(x: Float[Array, "B H T K"], rotary) -> Float[Array, "B H T K"]:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864): number j and number j + K/2 are turned by the j-th angle.

    `rotary` is the cosine and the sine of the angles [B 1 T K/2].
    """
    (a, b), (cos, sin) = jnp.split(x, 2, axis=-1), rotary
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(
        x.dtype
    )
