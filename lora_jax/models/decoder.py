"""What the families of language models share.

A decoder has blocks that normalize their input (pre-norm), causal attention, a cache
for generation, and a head that may be tied to the token embedding. `gpt2.py` and
`llama.py` put their layers into it. Shape letters are those of `nn/layers.py`.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax import quant
from lora_jax.models.padding import check_row_length, text_positions
from lora_jax.nn.attention import Attention, AttentionContext, Cache
from lora_jax.nn.blocks import layer_count, scan_blocks, should_unroll
from lora_jax.nn.dense import dense
from lora_jax.nn.engine import PLAIN, Engine
from lora_jax.nn.layers import dropout, fold_key
from lora_jax.nn.visibility import Visibility


class Block(nnx.Module):
    """Attention and MLP, each of a norm's output and added to its input (pre-norm)."""

    def __init__(
        self, attention: Attention, attention_norm: Any, mlp: Any, mlp_norm: Any
    ):
        self.attention = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: AttentionContext,
        cache: Cache | None = None,
        *,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Return the block's output and, with a cache, the cache with these tokens."""
        # Each of the block's two halves has a key for its layers and one for its sum.
        attention_key = fold_key(key, 0)
        attention_sum_key = fold_key(key, 1)
        mlp_sum_key = fold_key(key, 2)
        mlp_key = fold_key(key, 3)

        y = self.attention_norm(x)
        attended, cache = self.attention(
            y, y, context, cache, rate=rate, key=attention_key
        )
        x = x + dropout(attention_sum_key, rate, attended)

        y = self.mlp_norm(x)
        transformed = self.mlp(y, key=mlp_key)
        x = x + dropout(mlp_sum_key, rate, transformed)
        return x, cache


class Decoder(nnx.Module):
    """A language model: blocks between an embedding and a head.

    `model(tokens, length)` returns the logits [B, T, V] of each next token,
    `model.hidden(...)` the hidden states [B, T, D].

    `embed(tokens, positions)` returns [B, T, D]. Without `lm_head` the head is tied to
    the token embedding. `config` has the fields `layers`, `vocabulary`,
    `max_positions`, `kv_heads`, `head_dim` and `rope_frequencies` (None without rotary
    embedding).
    """

    def __init__(
        self, embed: Any, blocks: Any, norm: Any, lm_head: Any = None, *, config: Any
    ):
        self.embed = embed
        self.blocks = blocks
        self.norm = norm
        self.lm_head = lm_head
        self.config = config

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        length: Int[Array, " B"] | None = None,
        *,
        texts: Int[Array, "B T"] | None = None,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
        engine: Engine = PLAIN,
    ) -> Float[Array, "B T D"]:
        """Return the hidden states after the final norm.

        Each depends on its own token and on earlier ones alone.

        Args:
            tokens: one text a row.
            length: the number of real tokens of each row; what follows is padding and
                is not attended to. All are real by default.
            texts: the number of each token's text in rows of several texts, which do
                not see each other. It says what is padding, too.
            rate: the rate of the pretrained model's own dropout.
            key: the random key of all dropout, that of adapters included; without a key
                nothing is dropped.
            engine: how the blocks are computed.

        Raises:
            ValueError: the rows are longer than the model has positions.
        """
        if texts is None:
            check_row_length(tokens, self.config.max_positions)
        positions = jnp.arange(tokens.shape[1])[None]
        visibility = Visibility(stop=length, first_query=0)
        if texts is not None:
            positions = text_positions(texts)
            visibility = Visibility(first_query=0, texts=texts)
        states, _ = self._run_blocks(
            tokens,
            positions,
            visibility,
            rate=rate,
            key=key,
            engine=engine,
        )
        return states

    def extend(
        self,
        tokens: Int[Array, "B T"],
        cache: Any,
        cache_index: Int[Array, ""] | int,
        start: Int[Array, " B"],
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Return the hidden states of new tokens, and the cache with them in it.

        Args:
            tokens: the tokens at `cache_index` and after it.
            cache: the keys and values of all tokens before them (see `cache`).
            cache_index: the index of the first new token in the cache.
            start: the index at which each row's text begins; what is in the cache
                before it is padding.
        """
        size = tokens.shape[1]
        index = cache_index + jnp.arange(size)  # [T]
        positions = index - start[:, None]  # [B, T]
        # Padding has indices below 0; it is not attended to, so that any will do.
        positions = jnp.maximum(positions, 0)
        visibility = Visibility(start, first_query=cache_index)
        return self._run_blocks(tokens, positions, visibility, cache, cache_index)

    def cache(self, rows: int, size: int, dtype: Any = jnp.float32) -> Any:
        """Return an empty cache of `rows` rows of `size` tokens.

        It has the form of `blocks`: a tuple of caches for a tuple of blocks, one cache
        with a leading layer axis for stacks of layers.
        """
        config = self.config
        shape = rows, config.kv_heads, size, config.head_dim  # [B, G, S, K]
        layers = layer_count(self.blocks)
        if not isinstance(self.blocks, tuple):
            return _empty_cache((layers, *shape), dtype)
        return tuple(_empty_cache(shape, dtype) for _ in range(layers))

    def head(self) -> Any:
        """Return the kernel [D, V] of the logits.

        It is the head's kernel or, tied, the token embedding; adapters of either are
        merged into it.

        Raises:
            ValueError: the adapter cannot be merged into a matrix.
        """
        if self.lm_head is None:
            return _merged_leaf(self.embed.tokens, "embedding").T
        return _merged_leaf(self.lm_head, "kernel")

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        length: Int[Array, " B"] | None = None,
        *,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Return the logits of the token that follows each token, in float32."""
        states = self.hidden(tokens, length, rate=rate, key=key)
        kernel = self.head()
        logits = dense(states, kernel)
        return logits.astype(jnp.float32)

    def _run_blocks(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "#B T"],
        visibility: Visibility,
        cache: Any = None,
        cache_index: Any = None,
        *,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
        engine: Engine = PLAIN,
    ) -> tuple[Float[Array, "B T D"], Any]:
        rotary = self._rotary(positions)
        context = AttentionContext(visibility, rotary, cache_index, engine)
        embedded = self.embed(tokens, positions)
        # Whatever the embedding is stored in.
        embedded = embedded.astype(engine.activations)
        x = dropout(fold_key(key, 0), rate, embedded)

        def step(x, index, block, cache):
            block_key = fold_key(key, 1 + index)
            return block(x, context, cache, rate=rate, key=block_key)

        unroll = should_unroll(self.blocks, engine.remat)
        x, cache = scan_blocks(
            step, x, self.blocks, cache, unroll=unroll, remat=engine.remat
        )
        return self.norm(x), cache

    def _rotary(self, positions: Int[Array, "#B T"]) -> Any:
        """Return cosine and sine [B, 1, T, K/2] of the angles that queries turn by."""
        frequencies = self.config.rope_frequencies
        if frequencies is None:
            return None
        frequencies = jnp.asarray(frequencies, jnp.float32)
        positions = positions[:, None, :, None]  # [B, 1, T, 1]
        angles = positions * frequencies
        return jnp.cos(angles), jnp.sin(angles)


def _empty_cache(shape: tuple[int, ...], dtype: Any) -> Cache:
    keys = jnp.zeros(shape, dtype)
    values = jnp.zeros(shape, dtype)
    return Cache(keys, values)


def _merged_leaf(layer: Any, name: str) -> Any:
    """Return a layer's leaf with the adapters around the layer merged into it."""
    while not hasattr(layer, name):
        if not hasattr(layer, "merged"):
            raise ValueError(
                "the head: expected an adapter that can be merged, "
                f"got {type(layer).__name__}"
            )
        layer = quant.dequantize_model(layer).merged()
    return getattr(layer, name).get_value()
