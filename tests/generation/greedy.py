"""Greedy decoding without a cache: a loop over texts, each read from its beginning."""

import numpy as np

from lora_jax.generation import Decoding
from lora_jax.models.decoder import Decoder
from tests.models.small_decoders import logits, small_llama

PROMPTS = [
    [1, 2, 3],
    [4],
    [5, 6, 5, 6, 5],
    [7, 8],
    [*range(23, 7, -1), *range(23, 7, -1)],  # 32 tokens
]
NEW = 8  # new tokens
END = 0  # the token that ends a text


def small_model() -> Decoder:
    """Of 40 positions, so that the longest prompt and what follows fill them."""
    return small_llama(vocabulary=24, max_positions=40)


def repeating_tokens(tokens: list[int], size: int) -> set[int]:
    """The tokens that would make an n-gram of that size a second time."""
    ngrams = len(tokens) - size + 1
    last = tokens[ngrams:]
    repeating = set()
    for first in range(ngrams):
        stop = first + size
        *before, token = tokens[first:stop]
        if before == last:
            repeating.add(token)
    return repeating


def likeliest_text(
    model: Decoder,
    prompt: list[int],
    decoding: Decoding,
) -> list[int]:
    """The likeliest token after each text, until one ends it."""
    size = decoding.no_repeat
    tokens = list(prompt)
    text = []
    while len(text) < decoding.new_tokens:
        scores = next_scores(model, tokens)
        if size:
            counted = text if decoding.no_repeat_within == "text" else tokens
            forbidden = repeating_tokens(counted, size)
            scores[list(forbidden)] = -np.inf
        token = int(scores.argmax())
        if token == END:
            break
        text.append(token)
        tokens.append(token)
    return text


def next_scores(model: Decoder, tokens: list[int]) -> np.ndarray:
    """The logits of the token that follows."""
    length = len(tokens)
    # Rows of one width, so that one program reads them all.
    row = np.zeros((1, model.config.max_positions), np.int32)
    row[0, :length] = tokens
    row_logits = logits(model, row, np.array([length]))
    return np.array(row_logits[0, length - 1])
