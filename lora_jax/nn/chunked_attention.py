"""Softmax attention a few tokens at a time, of which T x S scores never exist at once.

Shape letters are those of `layers.py`; W is the number of tokens of a chunk, N that of
chunks.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lora_jax.nn.layers import fold_key
from lora_jax.nn.plain_attention import plain_attention
from lora_jax.nn.visibility import Visibility

# Causal attention is computed in so many parts, each with the keys that it can see.
PARTS = 4


def chunked_attention(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S K"],
    visibility: Visibility,
    *,
    width: int,
    rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T D"]:
    """Return attention, `width` tokens at a time; arguments are as for `attend`.

    The backward pass computes the scores anew, again a few tokens at a time. Dropout
    draws other weights than that of `plain_attention`.
    """

    def attend_chunk(index, chunk, keys):
        """Return the attention of the chunk to the first `keys` keys."""
        queries = index * width + jnp.arange(width)
        mask = visibility.matrix(queries, jnp.arange(keys))
        return plain_attention(
            chunk,
            key[:, :, :keys],
            value[:, :, :keys],
            mask,
            rate=rate,
            dropout_key=fold_key(dropout_key, index),
        )

    chunks = _cut(query, width)  # [N, B, H, W, K]
    parts = []
    for start, stop, keys in _parts(len(chunks), width, key.shape[2], visibility):
        attend_one = jax.checkpoint(
            partial(attend_chunk, keys=keys),
            prevent_cse=False,  # there are none in a loop
        )
        numbered = jnp.arange(start, stop), chunks[start:stop]
        part = jax.lax.map(lambda one, attend=attend_one: attend(*one), numbered)
        parts.append(part)
    mixed = jnp.concatenate(parts)  # [N, B, W, D]
    _, rows, _, model_width = mixed.shape
    by_row = mixed.transpose(1, 0, 2, 3).reshape(rows, -1, model_width)
    return by_row[:, : query.shape[2]]


def _cut(query: Float[Array, "B H T K"], width: int) -> Float[Array, "N B H W K"]:
    """Return the chunks; the last one is filled up with zeros."""
    rows, heads, tokens, head_dim = query.shape
    filler = -tokens % width
    filled = jnp.pad(query, [(0, 0), (0, 0), (0, filler), (0, 0)])
    chunks = filled.reshape(rows, heads, -1, width, head_dim)
    return chunks.transpose(2, 0, 1, 3, 4)


def _parts(
    chunks: int, width: int, keys: int, visibility: Visibility
) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of the chunks: the first, the one after the last, and their keys.

    The later keys, which causal attention masks, are left out.
    """
    first = visibility.first_query
    # The number of keys of a product has to be known when it is compiled.
    if not isinstance(first, int):
        yield 0, chunks, keys
        return
    length = -(-chunks // PARTS)
    for start in range(0, chunks, length):
        stop = min(start + length, chunks)
        seen = visibility.prefix + first + stop * width
        yield start, stop, min(seen, keys)
