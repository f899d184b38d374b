"""Beam search, as transformers' `generate` does it (early_stopping=False).

Of the best continuations of K beams, the first K that end are hypotheses. A hypothesis
is scored by the sum of its tokens' log-probabilities, divided by the number of tokens,
the end token included, to the power of `length_penalty`. A row is done once its best
beam, at the present length, scores below the worst of K hypotheses. Shape letters are
those of `next_token.py`; C is the number of continuations that are looked at.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

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

# The score of what is no hypothesis: finite, so that sums with it stay numbers.
NEVER = -1e9


class _Beams(NamedTuple):
    """The state of the search before a step."""

    tokens: Int[Array, "B K S"]  # of the beams that go on
    scores: Float[Array, "B K"]  # sums of log-probabilities
    cache: Any
    logits: Float[Array, "R V"]  # R = B K
    ended: Int[Array, "B K N"]  # the best hypotheses' new tokens
    ended_scores: Float[Array, "B K"]  # by length; NEVER where there is none yet
    is_open: Bool[Array, " B"]  # whether the row may still find a better hypothesis
    step: Int[Array, ""]


class _Continuations(NamedTuple):
    """The best continuations of a row's beams by one token, the best first."""

    scores: Float[Array, "B C"]
    beam: Int[Array, "B C"]  # the beam that is continued
    token: Int[Array, "B C"]
    tokens: Int[Array, "B C S"]  # the beam's, the new one included
    is_over: Bool[Array, "B C"]  # ended, or as long as allowed


class _Hypotheses(NamedTuple):
    """The K best texts of a row that have ended, the best first."""

    tokens: Int[Array, "B K N"]  # the new ones
    scores: Float[Array, "B K"]


def search_beams(
    model: Decoder,
    prompts: ReadPrompts,
    decoding: Decoding,
    eos_ids: tuple[int, ...],
) -> Written:
    """Return the best hypothesis after each prompt."""
    k = decoding.beam
    width = prompts.tokens.shape[1]
    start = jnp.repeat(prompts.start, k, axis=0)  # [R]
    counted = jnp.repeat(first_counted(prompts, decoding), k, axis=0)  # [R]

    def is_unfinished(beams: _Beams) -> Bool[Array, ""]:
        any_open = beams.is_open.any()
        return (beams.step < decoding.new_tokens) & any_open

    def step(beams: _Beams) -> _Beams:
        index = width + beams.step
        continuations = _continue_beams(
            beams,
            counted,
            index,
            decoding,
            eos_ids,
        )
        count = beams.step + 1.0  # new tokens
        length = count**decoding.length_penalty
        hypotheses = _add_hypotheses(beams, continuations, length, width)

        # The K best continuations that are not over are the new beams.
        scores = continuations.scores
        is_over = continuations.is_over
        scores = jnp.where(is_over, scores + NEVER, scores)
        scores, chosen = lax.top_k(scores, k)

        parents = _take(continuations.beam, chosen)  # [B, K]
        cache = _reorder_cache(beams.cache, parents)
        token = _take(continuations.token, chosen)  # [B, K]
        token = token.reshape(-1, 1)  # [R, 1]
        states, cache = model.extend(token, cache, index, start)

        may_improve = _may_improve(scores, length, hypotheses)
        return _Beams(
            tokens=_take(continuations.tokens, chosen),
            scores=scores,
            cache=cache,
            logits=last_logits(model, states),
            ended=hypotheses.tokens,
            ended_scores=hypotheses.scores,
            is_open=beams.is_open & may_improve,
            step=beams.step + 1,
        )

    first = _first_beams(prompts, decoding, eos_ids)
    last = lax.while_loop(is_unfinished, step, first)
    best = last.ended[:, 0]
    return Written(best, last.step)


def _first_beams(
    prompts: ReadPrompts,
    decoding: Decoding,
    eos_ids: tuple[int, ...],
) -> _Beams:
    """Return K beams a row, all of them the prompt; only the first may go on."""
    k = decoding.beam
    new_tokens = decoding.new_tokens
    filler = eos_ids[0]  # what stands after the end of a text
    repeat = partial(jnp.repeat, repeats=k, axis=0)

    tokens = add_room(prompts.tokens, new_tokens, filler)
    rows, size = tokens.shape
    tokens = tokens[:, None]  # [B, 1, S]
    tokens = jnp.broadcast_to(tokens, (rows, k, size))
    never = jnp.full((rows, k), NEVER)
    ended_shape = rows, k, new_tokens
    return _Beams(
        tokens=tokens,
        scores=never.at[:, 0].set(0.0),
        cache=jax.tree.map(repeat, prompts.cache),
        logits=repeat(prompts.logits),
        ended=jnp.full(ended_shape, filler, tokens.dtype),
        ended_scores=never,
        is_open=jnp.ones(rows, bool),
        step=jnp.int32(0),
    )


def _continue_beams(
    beams: _Beams,
    counted: Int[Array, " R"],
    index: Int[Array, ""],
    decoding: Decoding,
    eos_ids: tuple[int, ...],
) -> _Continuations:
    """Return the best continuations by a token at `index` of the rows.

    No n-gram of the tokens from index `counted` on is repeated.
    """
    rows, k, size = beams.tokens.shape
    log_shares = jax.nn.log_softmax(beams.logits)  # [R, V]
    texts = beams.tokens.reshape(-1, size)  # [R, S]
    log_shares = forbid_repeats(
        log_shares,
        texts,
        counted,
        index,
        decoding.no_repeat,
    )

    # All continuations of a row's beams compete: [B, K V].
    vocabulary = log_shares.shape[1]
    log_shares = log_shares.reshape(rows, k, vocabulary)
    scores = beams.scores[..., None]  # [B, K, 1]
    sums = scores + log_shares
    sums = sums.reshape(rows, -1)

    # So many that K of them go on, even if each beam's likeliest tokens are its ends.
    tokens_per_beam = max(2, 1 + len(eos_ids))
    count = k * tokens_per_beam
    scores, flat_index = lax.top_k(sums, count)
    beam = flat_index // vocabulary
    token = flat_index % vocabulary
    token = token.astype(beams.tokens.dtype)

    tokens = _take(beams.tokens, beam)
    column = token[..., None]  # [B, C, 1]
    tokens = lax.dynamic_update_slice(tokens, column, (0, 0, index))
    step = beams.step + 1
    is_last = step == decoding.new_tokens
    is_over = is_end(token, eos_ids) | is_last
    return _Continuations(scores, beam, token, tokens, is_over)


def _add_hypotheses(
    beams: _Beams,
    continuations: _Continuations,
    length: Float[Array, ""],
    width: int,
) -> _Hypotheses:
    """Return the K best of the hypotheses so far and of the continuations now over."""
    _, k = beams.scores.shape
    _, count = continuations.scores.shape
    # Only the first K continuations count, as in transformers.
    is_counted = jnp.arange(count) < k  # [C]
    is_open = beams.is_open[:, None]  # [B, 1]
    is_hypothesis = continuations.is_over & is_counted & is_open  # [B, C]
    new_scores = continuations.scores / length
    new_scores = jnp.where(is_hypothesis, new_scores, NEVER)
    new_tokens = continuations.tokens[..., width:]

    scores = jnp.concatenate([beams.ended_scores, new_scores], axis=1)
    tokens = jnp.concatenate([beams.ended, new_tokens], axis=1)
    best_scores, best = lax.top_k(scores, k)
    return _Hypotheses(_take(tokens, best), best_scores)


def _may_improve(
    scores: Float[Array, "B K"],
    length: Float[Array, ""],
    hypotheses: _Hypotheses,
) -> Bool[Array, " B"]:
    """Return whether a row's best beam scores above the worst of its K hypotheses."""
    # As long as there are fewer, the worst one scores NEVER.
    worst = hypotheses.scores[:, -1]
    best = scores[:, 0]
    best = best / length
    return best > worst


def _take(values: Array, index: Int[Array, "B I"]) -> Array:
    """Return the values [B, I, ..] at these indices of the second axis, row by row."""
    if values.ndim == 3:
        index = index[..., None]
    return jnp.take_along_axis(values, index, axis=1)


def _reorder_cache(cache: Any, beam: Int[Array, "B K"]) -> Any:
    """Return the cache of the beams that go on, each of which continues `beam`."""
    rows, k = beam.shape
    first = jnp.arange(rows) * k  # the index in R of each row's first beam
    index = first[:, None] + beam
    index = index.reshape(-1)  # [R]
    return jax.tree.map(lambda leaf: leaf[index], cache)
