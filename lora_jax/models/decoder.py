"""What the families of language models share: blocks with norms first, causal attention, generation's cache, the tied head.

Shape letters are those of `layers.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lora_jax import quant
from lora_jax.nn.attention import Attention, AttentionContext, Cache
from lora_jax.nn.blocks import layer_count, scan_blocks, should_unroll
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import dropout, fold_key


def end_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    """The tokens that end a text, by a Hugging Face config.json: none, one, or a list. Raises ValueError for what is no token.

    It may be one that the model does not have: small random models often keep the end token of a large vocabulary.
    """
    found = config.get("eos_token_id")
    eos_ids = (
        tuple(found) if isinstance(found, list) else () if found is None else (found,)
    )
    if any(type(token) is not int for token in eos_ids):
        raise ValueError(
            f"eos_token_id: expected a token id or a list of them, got {found!r}"
        )
    return eos_ids


class Block(nnx.Module):
    """Attention and MLP, each of a norm's output and added to what came in (pre-norm)."""

    def __init__(
        self, attention: Attention, attention_norm: Any, mlp: Any, mlp_norm: Any
    ):
        self.attention, self.attention_norm, self.mlp, self.mlp_norm = (
            attention,
            attention_norm,
            mlp,
            mlp_norm,
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: AttentionContext,
        cache: Cache | None = None,
        *,
        rate=0.0,
        key=None,
    ):
        """The block's output and, with a cache, the cache with these tokens."""
        y = self.attention_norm(x)
        mixed, cache = self.attention(
            y, y, context, cache, rate=rate, key=fold_key(key, 0)
        )
        h = x + dropout(fold_key(key, 1), rate, mixed)
        return h + dropout(
            fold_key(key, 2), rate, self.mlp(self.mlp_norm(h), key=fold_key(key, 3))
        ), cache


class Decoder(nnx.Module):
    """A language model: blocks between an embedding and a head.

    `model(tokens, length)` returns the logits [B, T, V] of each next token,
    `model.hidden(...)` the hidden states [B, T, D].

    `embed(tokens, positions)` returns [B, T, D]. Without `lm_head` the head is tied to
    the token embedding. `config` has the fields `layers`, `vocabulary`, `max_positions`,
    `kv_heads`, `head_dim` and `rope_frequencies` (None without rotary embedding).
    """

    def __init__(
        self, embed: Any, blocks: Any, norm: Any, lm_head: Any = None, *, config: Any
    ):
        self.embed, self.blocks, self.norm, self.lm_head = embed, blocks, norm, lm_head
        self.config = config

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        length: Int[Array, " B"] | None = None,
        *,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states after the final norm; each depends on its own and earlier tokens alone.

        Args:
            length: real tokens per row; what follows is padding and is not attended to. All real by default.
            rate, key: the pretrained model's own dropout; without a key nothing is dropped, LoRA's inputs neither.

        Raises:
            ValueError: the rows are longer than there are positions (indexing would repeat the last one in silence).
        """
        if tokens.shape[1] > self.config.max_positions:
            raise ValueError(
                f"expected rows of at most {self.config.max_positions} tokens, the model's positions; got {tokens.shape[1]}"
            )
        length = (
            jnp.full(tokens.shape[:1], tokens.shape[1]) if length is None else length
        )
        index = jnp.arange(tokens.shape[1])
        mask = (index <= index[:, None]) & (index < length[:, None])[:, None]
        return self._through(tokens, index[None], mask, None, None, rate=rate, key=key)[
            0
        ]

    def extend(
        self,
        tokens: Int[Array, "B T"],
        cache: Any,
        at: Int[Array, ""] | int,
        start: Int[Array, " B"],
    ) -> tuple[Float[Array, "B T D"], Any]:
        """Hidden states of the tokens that stand at index `at` and after it in rows that begin at index `start`, and the cache
        with them; what is in the cache before `start` is left padding."""
        index = at + jnp.arange(tokens.shape[1])
        held = jnp.arange(jax.tree.leaves(cache)[0].shape[-2])
        mask = (held <= index[:, None]) & (held >= start[:, None])[:, None]
        positions = jnp.maximum(index - start[:, None], 0)
        return self._through(tokens, positions, mask, cache, at)

    def cache(self, rows: int, size: int, dtype: Any = jnp.float32) -> Any:
        """An empty cache for so many rows of so many tokens, in the shape `blocks` has."""
        shape = (rows, self.config.kv_heads, size, self.config.head_dim)
        count = layer_count(self.blocks)
        if isinstance(self.blocks, tuple):
            return tuple(
                Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
                for _ in range(count)
            )
        return Cache(*(jnp.zeros((count, *shape), dtype) for _ in range(2)))

    def _through(
        self,
        tokens,
        positions,
        mask: Bool[Array, "B T S"],
        cache,
        at,
        *,
        rate=0.0,
        key=None,
    ):
        context = AttentionContext(mask, self._rotation(positions), at)
        x = dropout(
            fold_key(key, 0), rate, self.embed(tokens, positions).astype(jnp.float32)
        )

        def step(x, index, block, cache):
            return block(x, context, cache, rate=rate, key=fold_key(key, 1 + index))

        unroll = should_unroll(self.blocks)
        x, cache = scan_blocks(step, x, self.blocks, cache, unroll=unroll)
        return self.norm(x), cache

    def _rotation(self, positions):
        if self.config.rope_frequencies is None:
            return None
        turned = positions[:, None, :, None] * jnp.asarray(
            self.config.rope_frequencies, jnp.float32
        )
        return jnp.cos(turned), jnp.sin(turned)

    def head(self) -> Any:
        """The kernel [D, V] of the logits: the head's or, tied, the token embedding's; adapted, as its adapter makes it.

        Raises:
            ValueError: the adapter cannot be folded into the matrix.
        """
        layer, name = (
            (self.embed.tokens, "embedding")
            if self.lm_head is None
            else (self.lm_head, "kernel")
        )
        while not hasattr(layer, name):
            if not hasattr(layer, "merged"):
                raise ValueError(
                    f"the head: expected an adapter that can be merged, got {type(layer).__name__}"
                )
            layer = quant.dequantize_model(layer).merged()
        kernel = getattr(layer, name).get_value()
        return kernel.T if name == "embedding" else kernel

    def __call__(
        self, tokens, length=None, *, rate=0.0, key=None
    ) -> Float[Array, "B T V"]:
        """Logits of the token that follows each one, in float32."""
        return dense(
            self.hidden(tokens, length, rate=rate, key=key), self.head()
        ).astype(jnp.float32)
