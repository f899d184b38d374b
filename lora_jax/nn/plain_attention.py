"""Softmax attention with the scores of all tokens by all keys at once.

Shape letters are those of `layers.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from lora_jax.nn.layers import dropout


def plain_attention(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S K"],
    mask: Bool[Array, "#B #T S"],
    *,
    rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T D"]:
    """Return attention, with the scores of all tokens by all keys.

    `mask` is true where a token may attend to a key; the others are as for `attend`.
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


def _tokens_first(x: Float[Array, "B H T K"]) -> Float[Array, "B T D"]:
    batch, heads, tokens, head_dim = x.shape
    by_token = x.transpose(0, 2, 1, 3)
    return by_token.reshape(batch, tokens, heads * head_dim)
