"""How far numbers move when they are quantized, whatever their size."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.quant import CODECS, Quantized
from lora_jax.quant.formats import FP4, NF4
from tests.quant.numbers import dequantize, quantize

SHAPES = st.sampled_from([(1, 1), (3, 35), (2, 5, 7)])
SEEDS = st.integers(0, 2**32 - 1)
EXPONENTS = st.integers(-20, 20)
ANY_CODEC = st.sampled_from(list(CODECS))
TABLES = {"nf4": NF4, "fp4": FP4}
SYMMETRIC = st.sampled_from(["nf4", "fp4", "int4", "int8"])


def sample(shape, seed, exponent) -> np.ndarray:
    """Return normal numbers around 10^exponent, a third of them exactly 0."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=shape)
    is_kept = rng.random(shape) < 0.67
    numbers = numbers * is_kept
    scaled = numbers * 10.0**exponent
    return scaled.astype(np.float32)


def spread_scales(value: Quantized) -> np.ndarray:
    """Return the scale of each number of the value, in its shape."""
    count = int(np.prod(value.stored))
    scales = np.asarray(value.scales)
    repeated = np.repeat(scales, value.block, axis=-1)
    # The last block may be longer than the matrix.
    repeated = repeated[..., :count]
    return repeated.reshape(value.shape)


@settings(max_examples=30, deadline=None)
@given(ANY_CODEC, SHAPES, SEEDS, EXPONENTS)
def test_an_error_is_at_most_half_a_step(codec, shape, seed, exponent):
    w = sample(shape, seed, exponent)
    value = quantize(w, codec, block=32)
    numbers = np.asarray(dequantize(value))
    difference = numbers - w
    error = np.abs(difference)

    scale = spread_scales(value)
    bound = scale / 2
    if codec in TABLES:
        # No number of the table is nearer.
        candidates = scale[..., None] * TABLES[codec]
        differences = w[..., None] - candidates
        bound = np.abs(differences).min(-1)
    # float32 itself rounds, relative to the larger of number and scale.
    magnitude = np.maximum(scale, np.abs(w))
    bound = bound + 2e-6 * magnitude
    assert (error <= bound).all()


@settings(max_examples=30, deadline=None)
@given(ANY_CODEC, SHAPES, SEEDS, EXPONENTS)
def test_dequantized_numbers_are_quantized_to_themselves(codec, shape, seed, exponent):
    w = sample(shape, seed, exponent)
    once = dequantize(quantize(w, codec, block=32))
    twice = dequantize(quantize(once, codec, block=32))
    largest = float(jnp.abs(once).max())
    np.testing.assert_allclose(
        twice,
        once,
        rtol=2e-6,
        atol=2e-6 * largest,
    )


@settings(max_examples=20, deadline=None)
@given(SYMMETRIC, SHAPES, SEEDS, EXPONENTS)
def test_zeros_stay_zeros_and_no_sign_changes(codec, shape, seed, exponent):
    w = sample(shape, seed, exponent)
    value = quantize(w, codec, block=32)
    numbers = np.asarray(dequantize(value))
    zeros = numbers[w == 0]
    signed = numbers * np.sign(w)
    assert (zeros == 0).all()
    assert (signed >= 0).all()
