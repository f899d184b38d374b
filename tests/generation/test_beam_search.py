"""A beam that holds all texts of three tokens out of five finds the best of them."""

import itertools

import jax
import numpy as np
import pytest

from lora_jax import generation
from lora_jax.generation import Decoding
from lora_jax.models.decoder import Decoder
from tests.generation.beams import searched_text
from tests.generation.greedy import END, NEW, likeliest_text, repeating_tokens
from tests.models.small_decoders import logits, small_llama

PROMPTS = [[1, 2], [3, 3], [4, 1], [2, 4]]
ALL_TEXTS = list(itertools.product(range(5), repeat=3))


def best_text(model: Decoder, prompt: list[int], penalty: float) -> list[int]:
    """The best of all texts, each scored by itself."""
    rows = [[*prompt, *text] for text in ALL_TEXTS]
    row_logits = logits(model, np.array(rows, np.int32))
    log_shares = np.asarray(jax.nn.log_softmax(row_logits))

    scores = {}
    for row, text in enumerate(ALL_TEXTS):
        # A text that ends early occurs with all continuations, which do not count.
        size = 3
        if END in text:
            size = text.index(END) + 1
        total = 0.0
        for index in range(size):
            # The logits at index 1, of the prompt's second token, are of the first.
            token = text[index]
            total += log_shares[row, 1 + index, token]
        shortened = text[:size]
        scores[shortened] = total / size**penalty
    best = max(scores, key=lambda text: scores[text])
    return [token for token in best if token != END]


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_the_best_of_all_texts(penalty):
    model = small_llama(vocabulary=5, max_positions=40)
    decoding = Decoding(3, beam=30, length_penalty=penalty)
    written = generation.generate(
        model,
        PROMPTS,
        decoding,
        eos_ids=END,
        batch=4,
    )
    expected = [best_text(model, prompt, penalty) for prompt in PROMPTS]
    assert written.tokens == expected

    greedy = [likeliest_text(model, prompt, decoding) for prompt in PROMPTS]
    assert expected != greedy, "greedy finds them too: this shows nothing"


@pytest.mark.parametrize("beam", [2, 4])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0])
def test_a_search_with_lists(beam, penalty):
    """Few beams: which continuations count, and when a search ends, decide."""
    model = small_llama(vocabulary=6, max_positions=40)
    decoding = Decoding(NEW, beam=beam, length_penalty=penalty)
    prompts = list(itertools.product(range(1, 6), repeat=2))
    written = generation.generate(model, prompts, decoding, eos_ids=END, batch=25)
    expected = [searched_text(model, [*prompt], decoding) for prompt in prompts]
    assert written.tokens == expected
    lengths = {len(text) for text in expected}
    assert len(lengths) > 1, "no text ends by itself: this shows little"


def first_repeat(counted: list[int], text: list[int], size: int) -> int | None:
    """The index in a text of the first token that repeats an n-gram, or None."""
    for index, token in enumerate(text):
        before = [*counted, *text[:index]]
        if token in repeating_tokens(before, size):
            return index
    return None


@pytest.mark.parametrize("beam", [1, 4])
def test_within_the_text_a_prompt_may_be_repeated_but_not_the_text(beam):
    """The rule of LoRA's authors: a name in the prompt can be written, once."""
    model = small_llama(vocabulary=5, max_positions=40)
    prompts = [[1, 2, 3, 4, 1, 2, 3, 4], [4, 4, 3, 3, 2, 2, 1, 1]]
    texts = {}
    for place in ("prompt", "text"):
        decoding = Decoding(12, beam=beam, no_repeat=2, no_repeat_within=place)
        written = generation.generate(model, prompts, decoding, eos_ids=END, batch=2)
        texts[place] = written.tokens

    for prompt, text in zip(prompts, texts["prompt"], strict=True):
        assert first_repeat(prompt, text, 2) is None
    repeats = []
    for prompt, text in zip(prompts, texts["text"], strict=True):
        assert first_repeat([], text, 2) is None
        repeats.append(first_repeat(prompt, text, 2))
    assert repeats != [None, None], "no prompt's bigram is written: this shows nothing"
