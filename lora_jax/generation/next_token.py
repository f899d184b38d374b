"""What all ways of decoding share: prompts that were read, scores of the next token.

Shape letters: B prompts, K beams, R rows of a batch (B, or B K for beams), P tokens of
a prompt with its padding, N new tokens, S = P + N, V vocabulary.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lora_jax.generation.decoding import Decoding
from lora_jax.models.decoder import Decoder
from lora_jax.nn.dense import dense


class ReadPrompts(NamedTuple):
    """Prompts that are padded on the left, once the model has read them."""

    tokens: Int[Array, "B P"]
    start: Int[Array, " B"]  # the index of each prompt's first token
    cache: Any  # the model's, with room for the new tokens
    logits: Float[Array, "B V"]  # of the first new token


class Written(NamedTuple):
    """What follows each prompt, filled up with an end token, and the steps it took."""

    tokens: Int[Array, "B N"]
    steps: Int[Array, ""]


def read_prompts(
    model: Decoder,
    tokens: Int[Array, "B P"],
    start: Int[Array, " B"],
    *,
    new_tokens: int,
    dtype: str,
) -> ReadPrompts:
    """Return the prompts with a cache of that dtype, which has room for new tokens."""
    rows, width = tokens.shape
    size = width + new_tokens
    cache = model.cache(rows, size, dtype)
    states, cache = model.extend(tokens, cache, 0, start)
    logits = last_logits(model, states)
    return ReadPrompts(tokens, start, cache, logits)


def last_logits(
    model: Decoder,
    states: Float[Array, "R T D"],
) -> Float[Array, "R V"]:
    """Return the logits of the token that follows the last one, in float32."""
    last = states[:, -1]  # [R, D]
    kernel = model.head()  # [D, V]
    logits = dense(last, kernel)
    return logits.astype(jnp.float32)


def add_room(
    tokens: Int[Array, "B P"],
    new_tokens: int,
    filler: int,
) -> Int[Array, "B S"]:
    """Return the prompts with room for new tokens, which holds the filler."""
    shape = len(tokens), new_tokens
    room = jnp.full(shape, filler, tokens.dtype)
    return jnp.concatenate([tokens, room], axis=1)


def is_end(
    token: Int[Array, "..."],
    eos_ids: tuple[int, ...],
) -> Bool[Array, "..."]:
    """Return whether each token is one of those that end a text."""
    return jnp.isin(token, jnp.array(eos_ids))


def first_counted(prompts: ReadPrompts, decoding: Decoding) -> Int[Array, " B"]:
    """Return the index of each row's first token whose n-grams may not be repeated."""
    if decoding.no_repeat_within == "prompt":
        return prompts.start
    rows, width = prompts.tokens.shape
    return jnp.full(rows, width, prompts.start.dtype)


def forbid_repeats(
    scores: Float[Array, "R V"],
    tokens: Int[Array, "R S"],
    start: Int[Array, " R"],
    end: Int[Array, ""] | int,
    size: int,
) -> Float[Array, "R V"]:
    """Return the scores with -inf at each token that would repeat an n-gram.

    Args:
        scores: of the token at index `end`.
        tokens: a text a row; those from `start` to `end` count.
        start: the index of each row's first token that counts.
        end: the index of the next token.
        size: n, the tokens of an n-gram; 0 forbids nothing.
    """
    rows, longest = tokens.shape
    if not 0 < size <= longest:
        return scores

    # Window i holds the n-gram that begins at index i; W windows fit into a row.
    windows = longest - size + 1
    first = jnp.arange(windows)  # [W]
    begins_inside = first >= start[:, None]  # [R, W]
    ends_inside = first + size <= end  # [W]

    # A window forbids its last token if its others are the last ones of the text.
    matches = begins_inside & ends_inside
    for offset in range(size - 1):
        index = end - size + 1 + offset
        text_token = lax.dynamic_slice_in_dim(
            tokens,
            index,
            1,
            axis=1,
        )  # [R, 1]
        stop = offset + windows
        window_token = tokens[:, offset:stop]  # [R, W]
        matches &= window_token == text_token
    limits = jnp.where(matches, -jnp.inf, jnp.inf)

    last_tokens = tokens[:, size - 1 :]  # [R, W]
    row = jnp.arange(rows)
    row = row[:, None]  # [R, 1]
    return scores.at[row, last_tokens].min(limits)
