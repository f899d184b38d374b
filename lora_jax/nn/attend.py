"""Softmax attention of queries to keys and values, in three ways with one result.

* plain: the scores of all tokens by all keys exist at once, and are kept for the
  backward pass.
* chunked: the scores of a few tokens exist at a time, and are computed anew in the
  backward pass.
* cudnn: NVIDIA's kernel, in which no scores leave the processor.

Which one it is, is decided here alone (`choose`). Shape letters are those of `layers.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lora_jax.nn.chunked_attention import chunked_attention
from lora_jax.nn.engine import PLAIN, Engine
from lora_jax.nn.plain_attention import plain_attention
from lora_jax.nn.visibility import Visibility

ATTENTIONS = ("auto", "plain", "chunked", "cudnn")

# On CPU: the number of queries from which chunks are faster, and how many are a chunk.
CPU_QUERIES = 512
CPU_WIDTH = 64
# On accelerators: the scores that may exist at a time (of float32, 134 MB), and the
# least number of queries of a chunk, which is the width of their units of products.
SCORES = 2**25
WIDTH = 128

# What cuDNN can compute.
CUDNN_DTYPES = ("bfloat16", "float16")
CUDNN_HEAD_DIM = 128
CUDNN_HEAD_MULTIPLE = 8


def attend(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B G S K"],
    value: Float[Array, "B G S K"],
    visibility: Visibility,
    engine: Engine = PLAIN,
    *,
    rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B T D"]:
    """Return softmax attention; each of the G heads of keys serves H/G of queries.

    A token that attends to nothing gets finite numbers.

    Args:
        query, key, value: heads first.
        visibility: which keys a token attends to.
        engine: says which way is taken, see `choose`.
        rate: share of the attention weights that is dropped.
        dropout_key: without one, nothing is dropped.
    """
    if dropout_key is None:
        rate = 0.0
    choice = choose(query, key, visibility, engine, rate=rate)
    if choice == "cudnn":
        return _cudnn_attention(query, key, value, visibility)
    if choice == "chunked":
        return chunked_attention(
            query,
            key,
            value,
            visibility,
            width=_chunk_width(query, key, engine.target),
            rate=rate,
            dropout_key=dropout_key,
        )
    mask = visibility.matrix(_indices(query), _indices(key))
    return plain_attention(query, key, value, mask, rate=rate, dropout_key=dropout_key)


def choose(
    query: Float[Array, "B H T K"],
    key: Float[Array, "B G S K"],
    visibility: Visibility,
    engine: Engine = PLAIN,
    *,
    rate: float = 0.0,
) -> str:
    """Return plain, chunked or cudnn.

    With `auto`, it is cuDNN on a GPU where it can compute it; chunks where they are
    faster on a CPU, or where the scores take much memory on an accelerator; and plain
    elsewhere. With `cudnn` it is that, or what it is on a GPU without cuDNN.
    """
    if engine.attention in ("plain", "chunked"):
        return engine.attention
    target = engine.target
    if engine.attention == "cudnn":
        target = "gpu"
    if target == "gpu" and _fits_cudnn(query, key, visibility, rate):
        return "cudnn"
    tokens = query.shape[2]
    is_long = tokens > WIDTH and _score_count(query, key) > SCORES
    if target == "cpu":
        is_long = tokens >= CPU_QUERIES
    return "chunked" if is_long else "plain"


def _fits_cudnn(query, key, visibility, rate):
    head_dim = query.shape[3]
    is_causal = visibility.first_query is not None
    # It has a causal mask of squares alone, and padding after the text alone.
    is_square = query.shape[2] == key.shape[2] and _starts_at_zero(visibility)
    # With lengths it trains on even numbers alone; BERT's last block has one query.
    is_even = query.shape[2] % 2 == 0 and key.shape[2] % 2 == 0
    return (
        query.dtype in CUDNN_DTYPES
        and is_even
        and head_dim <= CUDNN_HEAD_DIM
        and head_dim % CUDNN_HEAD_MULTIPLE == 0
        and rate == 0
        and visibility.start is None
        and visibility.texts is None
        and visibility.prefix == 0
        and (is_square or not is_causal)
    )


def _starts_at_zero(visibility):
    # A traced number is known to nobody yet.
    first = visibility.first_query
    return isinstance(first, int) and first == 0


def _score_count(query, key):
    rows, heads, tokens, _ = query.shape
    return rows * heads * tokens * key.shape[2]


def _chunk_width(query, key, target):
    if target == "cpu":
        return CPU_WIDTH
    rows, heads, _, _ = query.shape
    scores_of_query = rows * heads * key.shape[2]
    multiples = SCORES // (WIDTH * scores_of_query)
    return WIDTH * max(1, multiples)


def _indices(x):
    # Of the tokens of [B, H, T, K].
    return jnp.arange(x.shape[2])


def _cudnn_attention(query, key, value, visibility):
    # A mask of all scores would be another T x S numbers; padding after the text is
    # told by its length. A row of none has one key, as it would be NaN without.
    lengths = visibility.stop
    if lengths is not None:
        lengths = jnp.maximum(lengths, 1).astype(jnp.int32)
    mixed = jax.nn.dot_product_attention(
        query.transpose(0, 2, 1, 3),  # [B, T, H, K]
        key.transpose(0, 2, 1, 3),
        value.transpose(0, 2, 1, 3),
        is_causal=visibility.first_query is not None,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return mixed.reshape(*mixed.shape[:2], -1)
