"""The frequencies of rotary embedding, by hand."""

import math
from typing import Any

import pytest

from lora_jax.models.rope import rope_frequencies


def frequencies(**config: Any) -> Any:
    """Of heads of 8 numbers, so of four pairs."""
    return pytest.approx(rope_frequencies(config, head_dim=8))


def test_plain():
    # 10,000 ** (-2 j / 8)
    assert frequencies() == (1, 0.1, 0.01, 0.001)


def test_the_base_has_two_names():
    assert frequencies(rope_theta=16.0) == (1, 0.5, 0.25, 0.125)
    parameters = {"rope_theta": 16.0}
    assert frequencies(rope_parameters=parameters) == (1, 0.5, 0.25, 0.125)


def test_linear():
    scaling = {"type": "linear", "factor": 4.0}
    assert frequencies(rope_scaling=scaling) == (0.25, 0.025, 0.0025, 0.00025)


def test_llama_3_1_by_hand():
    """Within 200 π tokens the pairs turn 100, 10, 1 and 0.1 times.

    From 2 to 18 turns there is a ramp, and 10 is half of it.
    """
    scaling = dict(
        rope_type="llama3",
        factor=4.0,
        low_freq_factor=2.0,
        high_freq_factor=18.0,
        original_max_position_embeddings=200 * math.pi,
    )
    half = 0.1 * (0.5 + 0.5 / 4)
    assert frequencies(rope_scaling=scaling) == (1, half, 0.01 / 4, 0.001 / 4)


def test_what_a_gguf_file_divides_by():
    factors = [1.0, 2.0, 4.0, 8.0]
    assert frequencies(rope_factors=factors) == (1, 0.05, 0.0025, 0.000125)
