"""Tokens that are drawn: their frequencies, and the seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import generation
from lora_jax.generation import Decoding
from lora_jax.generation.generate import continue_prompts
from lora_jax.generation.sampling import choose_token
from tests.generation.greedy import END, NEW, PROMPTS, small_model

SAMPLED = Decoding(NEW, temperature=1.0)


class TestChoice:
    """Of tokens with probabilities 0.2, 0.5 and 0.3."""

    LOGITS = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    ROWS = 6000

    def frequencies(
        self, *, temperature: float = 1.0, top_p: float = 1.0
    ) -> np.ndarray:
        decoding = Decoding(temperature=temperature, top_p=top_p)
        logits = jnp.tile(self.LOGITS, (self.ROWS, 1))
        drawn = choose_token(logits, jax.random.key(0), decoding)
        return np.bincount(drawn, minlength=3) / self.ROWS

    @pytest.mark.parametrize(
        "settings", [{"top_p": 1e-6}, {"top_p": 0.49}, {"temperature": 1e-3}]
    )
    def test_as_good_as_greedy(self, settings):
        assert self.frequencies(**settings).tolist() == [0, 1, 0]

    @pytest.mark.parametrize(
        "settings, shares",
        [
            ({}, [0.2, 0.5, 0.3]),
            ({"top_p": 0.79}, [0, 0.5 / 0.8, 0.3 / 0.8]),
            ({"top_p": 0.81}, [0.2, 0.5, 0.3]),
            ({"temperature": 0.5}, [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38]),
            # top_p is a share of the distribution that is drawn from.
            ({"temperature": 0.5, "top_p": 0.7}, [0, 0.25 / 0.34, 0.09 / 0.34]),
        ],
    )
    def test_frequencies(self, settings, shares):
        frequencies = self.frequencies(**settings)
        four_deviations = 4 * 0.5 / self.ROWS**0.5
        np.testing.assert_allclose(frequencies, shares, atol=four_deviations)
        never = np.array(shares) == 0
        assert not frequencies[never].any()

    def test_without_a_key_the_likeliest(self):
        assert choose_token(self.LOGITS[None], None, Decoding()).tolist() == [1]


class TestTexts:
    def texts(self, prompts, **options):
        written = generation.generate(
            small_model(), prompts, SAMPLED, eos_ids=END, batch=2, **options
        )
        return written.tokens

    def test_are_a_function_of_the_seed(self):
        first = self.texts(PROMPTS, seed=0)
        assert self.texts(PROMPTS, seed=0) == first
        assert self.texts(PROMPTS, seed=1) != first

    def test_filled_up_after_the_end(self):
        """What a row would go on with after its end is not written."""
        tokens = jnp.array([[1, 2], [3, 4], [5, 6], [7, 8]])
        end_tokens = (END, 5, 6, 7, 8, 9, 10, 11)
        written = continue_prompts(
            small_model(),
            tokens,
            jnp.zeros(4, int),
            jax.random.key(0),
            decoding=SAMPLED,
            eos_ids=end_tokens,
            compute_dtype="float32",
        )
        is_end = np.isin(written.tokens, end_tokens)
        is_after = np.cumsum(is_end, axis=1) - is_end > 0
        assert is_after.any()
        assert (np.asarray(written.tokens)[is_after] == END).all()

    def test_rows_alike_are_drawn_apart(self):
        texts = self.texts([[1, 2, 3]] * 4)
        assert len({tuple(text) for text in texts}) > 2
