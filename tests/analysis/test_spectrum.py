"""Singular values of an update, against numpy in float64 and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from lora_jax.analysis import delta_svd, effective_rank, energy, spectrum
from tests.analysis.matrices import E, random_matrix

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25, deadline=None)


class TestProduct:
    @FEW
    @given(SEEDS, st.sampled_from([(1, 4, 6), (4, 8, 5)]))
    def test_the_svd_is_that_of_the_product(self, seed, shape):
        r, i, o = shape
        a = random_matrix(seed, i, r)
        b = random_matrix(seed + 1, r, o)
        u, s, vt = delta_svd(a, b)
        assert_allclose(u * s @ vt, a @ b, atol=1e-6)
        # Singular vectors are orthonormal.
        assert_allclose(u.T @ u, np.eye(r), atol=1e-5)
        assert_allclose(vt @ vt.T, np.eye(r), atol=1e-5)

    @FEW
    @given(SEEDS, st.sampled_from([(1, 4, 6), (4, 8, 5)]))
    def test_the_spectrum_is_that_of_the_product(self, seed, shape):
        r, i, o = shape
        a = random_matrix(seed, i, r)
        b = random_matrix(seed + 1, r, o)
        _, s, _ = np.linalg.svd(a.astype(float) @ b)
        # The product has r values that are not zero.
        assert_allclose(spectrum(a, b), s[:r], atol=1e-6)

    def test_an_untrained_adapter_has_no_spectrum(self):
        s = spectrum(E[:, :2], np.zeros((2, 5)))
        assert not s.any()

    def test_bfloat16_is_widened(self):
        a = jnp.asarray(random_matrix(0, 6, 2), jnp.bfloat16)
        b = jnp.asarray(random_matrix(0, 2, 5), jnp.bfloat16)
        narrow = spectrum(a, b)
        wide = spectrum(a.astype(jnp.float32), b.astype(jnp.float32))
        assert narrow.dtype == jnp.float32
        assert narrow.tolist() == wide.tolist()


class TestByHand:
    # The third has shares 1/2, 1/4 and 1/4: 1.5 bits.
    VALUES = ((1.0, 1.0, 1.0), (2.0, 0.0, 0.0), (4.0, 2.0, 2.0), (0.0, 0.0, 0.0))

    def test_effective_rank(self):
        ranks = effective_rank(jnp.array(self.VALUES))
        expected = [3, 1, 2**1.5, np.nan]
        assert_allclose(ranks, expected, rtol=1e-6)

    def test_energy(self):
        shares = energy(jnp.array(self.VALUES))
        expected = [
            [1 / 3, 2 / 3, 1],
            [1, 1, 1],
            [16 / 24, 20 / 24, 1],
            [np.nan, np.nan, np.nan],
        ]
        assert_allclose(shares, expected, rtol=1e-6)


def test_each_layer_is_analyzed_alone():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 3, 6, 2))
    b = rng.normal(size=(2, 3, 2, 5))
    layers = spectrum(a, b)
    assert layers.shape == (2, 3, 2)
    layer = spectrum(a[1, 2], b[1, 2])
    assert_allclose(layers[1, 2], layer, atol=1e-5)


# [i, r] and [r, o] of GPT-3, whose kernel has 604 MB.
@pytest.mark.parametrize("shapes", [[(12_288, 64), (64, 12_288)]])
def test_gpt3_needs_no_second_matrix(temporary_bytes, shapes):
    assert 0 < temporary_bytes(delta_svd, shapes) < 100e6
