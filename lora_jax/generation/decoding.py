"""How the tokens of a text are chosen: greedily, by chance, or by beam search; one compiled prefill and one compiled loop.

What beams do is transformers' `generate` (early_stopping=False): of the best continuations of K beams, the first K that end are
hypotheses, scored by the sum of their tokens' log-probabilities over (tokens, the end's included) ** length_penalty; a row is done
once its best beam, at that length, scores below the worst of K hypotheses.
"""

import math
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lora_jax.models.decoder import Decoder
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import fold_key

NEVER = -1e9  # the score of what is no hypothesis: finite, so that sums stay numbers


class Decoding(NamedTuple):
    """How tokens are chosen. LoRA's Table 11 has a beam of 10, a length penalty of 0.9
    (E2E) or 0.8, and no_repeat 4."""

    new_tokens: int = 64
    """Tokens generated at most, the end token included."""
    beam: int = 1
    """Beams of the search. 1 takes the likeliest token."""
    length_penalty: float = 1.0
    """A text's score is its log-probability divided by its length to this power."""
    no_repeat: int = 0
    """No n-gram of this size occurs twice in prompt and text. 0 allows all."""
    temperature: float = 0.0
    """Temperature of sampling. 0 takes the likeliest token."""
    top_p: float = 1.0
    """Sampling is among the likeliest tokens that together have this probability."""


def check(how: Decoding) -> None:
    """Raises one ValueError that lists every setting outside its range."""
    bounds = {
        "new_tokens": (
            is_whole(how.new_tokens) and how.new_tokens >= 1,
            "a whole number, 1 or more tokens",
        ),
        "beam": (is_whole(how.beam) and how.beam >= 1, "a whole number, 1 or more"),
        "no_repeat": (
            is_whole(how.no_repeat) and how.no_repeat >= 0,
            "a whole number, 0 (none) or more",
        ),
        "length_penalty": (_number(how.length_penalty), "a finite number"),
        "temperature": (
            _number(how.temperature) and how.temperature >= 0,
            "0 (the likeliest token) or more",
        ),
        "top_p": (_number(how.top_p) and 0 < how.top_p <= 1, "in (0, 1]"),
    }
    wrong = [
        f"{name}: expected {said}, got {getattr(how, name)}"
        for name, (ok, said) in bounds.items()
        if not ok
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    if how.beam > 1 and how.temperature:
        wrong.append(
            f"temperature: expected 0 with a beam of {how.beam}, which draws nothing, got {how.temperature}"
        )
    if how.top_p < 1 and not how.temperature:
        wrong.append(
            f"top_p: expected 1 with temperature 0, which draws nothing, got {how.top_p}"
        )
    if wrong:
        raise ValueError("; ".join(wrong))


def is_whole(number: Any) -> bool:
    """Whether it is an integer, also one of numpy's."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@partial(jax.jit, static_argnames=("how", "ends", "compute_dtype"))
def texts(
    model,
    tokens,
    start,
    key,
    *,
    how: Decoding,
    ends: tuple[int, ...],
    compute_dtype: str,
):
    """What follows prompts [B, P], padded on the left up to `start` [B]: new tokens [B, new], filled up with the first of `ends`;
    and the steps taken."""
    rows, width = tokens.shape
    cache = model.cache(rows, width + how.new_tokens, compute_dtype)
    x, cache = model.extend(tokens, cache, 0, start)
    logits = _logits(model, x)
    if how.beam > 1:
        return _beams(model, tokens, start, cache, logits, how, ends)
    return _one_by_one(model, tokens, start, cache, logits, key, how, ends)


def _logits(model: Decoder, x: Float[Array, "R T D"]) -> Float[Array, "R V"]:
    return dense(x[:, -1], model.head()).astype(jnp.float32)


def _is_end(token: Int[Array, "..."], ends: tuple[int, ...]) -> Bool[Array, "..."]:
    return jnp.isin(token, jnp.array(ends))


class _Rows(NamedTuple):
    tokens: Int[Array, "R S"]  # prompt and new ones
    cache: Any
    logits: Float[Array, "R V"]
    done: Bool[Array, " R"]
    step: Int[Array, ""]


def _one_by_one(
    model, tokens, start, cache, logits, key, how: Decoding, ends: tuple[int, ...]
):
    rows, width = tokens.shape
    whole = jnp.concatenate(
        [tokens, jnp.full((rows, how.new_tokens), ends[0], tokens.dtype)], 1
    )

    def step(at: _Rows) -> _Rows:
        logits = _banned(at.logits, at.tokens, start, width + at.step, how.no_repeat)
        token = _choose(logits, fold_key(key, at.step), how)
        token = jnp.where(at.done, ends[0], token).astype(at.tokens.dtype)
        whole = jax.lax.dynamic_update_slice(
            at.tokens, token[:, None], (0, width + at.step)
        )
        x, cache = model.extend(token[:, None], at.cache, width + at.step, start)
        return _Rows(
            whole, cache, _logits(model, x), at.done | _is_end(token, ends), at.step + 1
        )

    first = _Rows(whole, cache, logits, jnp.zeros(rows, bool), jnp.int32(0))
    last = jax.lax.while_loop(
        lambda at: (at.step < how.new_tokens) & ~at.done.all(), step, first
    )
    return last.tokens[:, width:], last.step


def _choose(logits: Float[Array, "R V"], key, how: Decoding) -> Int[Array, " R"]:
    if key is None:
        return logits.argmax(-1)
    order = jnp.argsort(-logits, axis=-1)
    sorted_ = jnp.take_along_axis(logits / how.temperature, order, axis=-1)
    share = jax.nn.softmax(sorted_, axis=-1)
    before = jnp.cumsum(share, axis=-1) - share  # of the tokens that are likelier
    drawn = jax.random.categorical(
        key, jnp.where(before < how.top_p, sorted_, -jnp.inf)
    )
    return jnp.take_along_axis(order, drawn[:, None], axis=-1)[:, 0]


def _banned(
    scores: Float[Array, "R V"], tokens: Int[Array, "R S"], start, end, size: int
) -> Float[Array, "R V"]:
    """The scores with -inf at each token that would make an n-gram of `size` a second time; the tokens are those before `end`."""
    if not 0 < size <= tokens.shape[1]:
        return scores
    windows = tokens.shape[1] - size + 1
    same = (jnp.arange(windows) >= start[:, None]) & (jnp.arange(windows) + size <= end)
    for i in range(size - 1):
        last = jax.lax.dynamic_slice_in_dim(tokens, end - size + 1 + i, 1, 1)
        same &= tokens[:, i : i + windows] == last
    return scores.at[jnp.arange(len(scores))[:, None], tokens[:, size - 1 :]].min(
        jnp.where(same, -jnp.inf, jnp.inf)
    )


class _Beams(NamedTuple):
    tokens: Int[Array, "B K S"]  # of the beams that go on
    scores: Float[Array, "B K"]
    cache: Any
    logits: Float[Array, "R V"]  # R = B K
    ended: Int[Array, "B K N"]  # the best hypotheses' new tokens
    ended_scores: Float[
        Array, "B K"
    ]  # over their lengths; NEVER where there is none yet
    open: Bool[Array, " B"]  # a row that may still find a better one
    step: Int[Array, ""]


def _beams(model, tokens, start, cache, logits, how: Decoding, ends: tuple[int, ...]):
    rows, width = tokens.shape
    k, new = how.beam, how.new_tokens
    many = max(2, 1 + len(ends)) * k  # so that K of them go on, whatever ends
    repeat = partial(jnp.repeat, repeats=k, axis=0)
    whole = jnp.concatenate([tokens, jnp.full((rows, new), ends[0], tokens.dtype)], 1)
    starts = repeat(start)

    def step(at: _Beams) -> _Beams:
        index = width + at.step
        logs = jax.nn.log_softmax(at.logits)
        logs = _banned(
            logs, at.tokens.reshape(rows * k, -1), starts, index, how.no_repeat
        )
        sums = (at.scores[..., None] + logs.reshape(rows, k, -1)).reshape(rows, -1)
        best, flat = jax.lax.top_k(sums, many)
        parent, token = (
            flat // logs.shape[-1],
            (flat % logs.shape[-1]).astype(tokens.dtype),
        )
        grown = jnp.take_along_axis(at.tokens, parent[..., None], 1)
        grown = jax.lax.dynamic_update_slice(grown, token[..., None], (0, 0, index))
        over = _is_end(token, ends) | (at.step + 1 == new)

        length = (at.step + 1.0) ** how.length_penalty
        counts = over & (jnp.arange(many) < k) & at.open[:, None]
        every = jnp.concatenate(
            [at.ended_scores, jnp.where(counts, best / length, NEVER)], 1
        )
        texts = jnp.concatenate([at.ended, grown[..., width:]], 1)
        ended_scores, kept = jax.lax.top_k(every, k)
        ended = jnp.take_along_axis(texts, kept[..., None], 1)

        scores, chosen = jax.lax.top_k(jnp.where(over, best + NEVER, best), k)
        full = (ended_scores > NEVER / 2).all(1)
        worst = jnp.where(full, ended_scores[:, -1], NEVER)
        still = at.open & (scores[:, 0] / length > worst)

        parents = (
            jnp.arange(rows)[:, None] * k + jnp.take_along_axis(parent, chosen, 1)
        ).reshape(-1)
        token = jnp.take_along_axis(token, chosen, 1).reshape(-1, 1)
        cache = jax.tree.map(lambda leaf: leaf[parents], at.cache)
        x, cache = model.extend(token, cache, index, starts)
        grown = jnp.take_along_axis(grown, chosen[..., None], 1)
        return _Beams(
            grown,
            scores,
            cache,
            _logits(model, x),
            ended,
            ended_scores,
            still,
            at.step + 1,
        )

    first = _Beams(
        tokens=jnp.broadcast_to(whole[:, None], (rows, k, width + new)),
        scores=jnp.full((rows, k), NEVER)
        .at[:, 0]
        .set(0.0),  # all beams are the prompt: one goes on
        cache=jax.tree.map(repeat, cache),
        logits=repeat(logits),
        ended=jnp.full((rows, k, new), ends[0], tokens.dtype),
        ended_scores=jnp.full((rows, k), NEVER),
        open=jnp.ones(rows, bool),
        step=jnp.int32(0),
    )
    last = jax.lax.while_loop(lambda at: (at.step < new) & at.open.any(), step, first)
    return last.ended[:, 0], last.step
