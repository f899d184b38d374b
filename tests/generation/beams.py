"""Beam search without a cache: lists of texts, each read from its beginning."""

from typing import NamedTuple

import jax
import numpy as np

from lora_jax.generation import Decoding
from lora_jax.models.decoder import Decoder
from tests.generation.greedy import END, next_scores


class Text(NamedTuple):
    score: float
    tokens: list[int]


def searched_text(model: Decoder, prompt: list[int], decoding: Decoding) -> list[int]:
    """The best hypothesis after a prompt, without its end token."""
    k = decoding.beam
    beams = [Text(0.0, [])]
    hypotheses: list[Text] = []
    for length in range(1, decoding.new_tokens + 1):
        penalty = length**decoding.length_penalty
        continuations = _continuations(model, prompt, beams)
        for score, tokens in continuations[:k]:
            if tokens[-1] == END or length == decoding.new_tokens:
                hypotheses.append(Text(score / penalty, tokens))
        hypotheses.sort(reverse=True)
        hypotheses = hypotheses[:k]

        beams = [text for text in continuations if text.tokens[-1] != END][:k]
        is_full = len(hypotheses) == k
        if is_full and beams[0].score / penalty <= hypotheses[-1].score:
            break
    best = hypotheses[0].tokens
    return best[:-1] if best[-1] == END else best


def _continuations(model: Decoder, prompt: list[int], beams: list[Text]) -> list[Text]:
    """All texts of one token more, the best first."""
    texts = []
    for score, tokens in beams:
        scores = next_scores(model, prompt + tokens)
        log_shares = np.asarray(jax.nn.log_softmax(scores))
        for token, log_share in enumerate(log_shares.tolist()):
            texts.append(Text(score + log_share, [*tokens, token]))
    return sorted(texts, reverse=True)
