"""Texts become the words that the E2E challenge's script compares."""

from lora_jax.metrics.words import mteval_words, ptb_words


def test_mteval_splits_signs_but_not_numbers():
    assert mteval_words("It's £20.50, &amp; low-cost.") == [
        "it's",
        "£20.50",
        ",",
        "&",
        "low-cost",
        ".",
    ]


def test_ptb_splits_clitics_and_drops_punctuation():
    text = "It isn't The Punter's; they’re family-friendly (low), 3.5 £20!"
    first = ["it", "is", "n't", "the", "punter", "'s", "they", "'re"]
    second = ["family-friendly", "(", "low", ")", "3.5", "#", "20"]
    assert ptb_words(text) == first + second
