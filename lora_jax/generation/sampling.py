"""Decoding one token after the other: the likeliest one, or one that is drawn.

Nucleus sampling (top_p) is that of Holtzman et al. 2020 (arXiv 1904.09751). Shape
letters are those of `next_token.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from lora_jax.generation.decoding import Decoding
from lora_jax.generation.next_token import (
    ReadPrompts,
    Written,
    add_room,
    first_counted,
    forbid_repeats,
    is_end,
    last_logits,
)
from lora_jax.models.decoder import Decoder
from lora_jax.nn.layers import fold_key


class _Texts(NamedTuple):
    """The state of the loop before a step."""

    tokens: Int[Array, "B S"]  # the prompts, and the new tokens so far
    cache: Any
    logits: Float[Array, "B V"]  # of the next token
    is_done: Bool[Array, " B"]
    step: Int[Array, ""]


def write_tokens(
    model: Decoder,
    prompts: ReadPrompts,
    key: Key[Array, ""] | None,
    decoding: Decoding,
    eos_ids: tuple[int, ...],
) -> Written:
    """Return what follows each prompt; without a key each token is the likeliest."""
    width = prompts.tokens.shape[1]
    start = prompts.start
    counted = first_counted(prompts, decoding)
    new_tokens = decoding.new_tokens
    filler = eos_ids[0]  # what stands after the end of a text

    def is_unfinished(texts: _Texts) -> Bool[Array, ""]:
        all_done = texts.is_done.all()
        return (texts.step < new_tokens) & ~all_done

    def step(texts: _Texts) -> _Texts:
        index = width + texts.step
        logits = forbid_repeats(
            texts.logits,
            texts.tokens,
            counted,
            index,
            decoding.no_repeat,
        )
        step_key = fold_key(key, texts.step)
        token = choose_token(logits, step_key, decoding)
        token = jnp.where(texts.is_done, filler, token)
        token = token.astype(texts.tokens.dtype)

        column = token[:, None]  # [B, 1]
        tokens = lax.dynamic_update_slice(texts.tokens, column, (0, index))
        states, cache = model.extend(column, texts.cache, index, start)
        return _Texts(
            tokens=tokens,
            cache=cache,
            logits=last_logits(model, states),
            is_done=texts.is_done | is_end(token, eos_ids),
            step=texts.step + 1,
        )

    first = _first_texts(prompts, new_tokens, filler)
    last = lax.while_loop(is_unfinished, step, first)
    return Written(last.tokens[:, width:], last.step)


def _first_texts(prompts: ReadPrompts, new_tokens: int, filler: int) -> _Texts:
    rows = len(prompts.tokens)
    return _Texts(
        tokens=add_room(prompts.tokens, new_tokens, filler),
        cache=prompts.cache,
        logits=prompts.logits,
        is_done=jnp.zeros(rows, bool),
        step=jnp.int32(0),
    )


def choose_token(
    logits: Float[Array, "B V"],
    key: Key[Array, ""] | None,
    decoding: Decoding,
) -> Int[Array, " B"]:
    """Return one token of each row: drawn, or the likeliest without a key."""
    if key is None:
        return logits.argmax(-1)
    order = jnp.argsort(-logits, axis=-1)  # the likeliest first
    scaled = logits / decoding.temperature
    scaled = jnp.take_along_axis(scaled, order, axis=-1)
    shares = jax.nn.softmax(scaled, axis=-1)

    # The likeliest token is always kept, because nothing is likelier than it.
    likelier = jnp.cumsum(shares, axis=-1)
    likelier = likelier - shares  # the share of all tokens before this one
    is_kept = likelier < decoding.top_p
    kept = jnp.where(is_kept, scaled, -jnp.inf)

    rank = jax.random.categorical(key, kept)
    rank = rank[:, None]  # [B, 1]
    token = jnp.take_along_axis(order, rank, axis=-1)
    return token[:, 0]
