"""Amplification: by hand, against numpy in float64, and the expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from lora_jax import methods, tree
from lora_jax.analysis import (
    Parts,
    amplification,
    figure8_similarity,
    kernel_similarity,
    layer_amplification,
)
from tests.analysis.matrices import E, random_matrix, reflect

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25, deadline=None)


class TestByHand:
    KERNEL = np.diag([5.0, 4, 3])

    def test_one_direction(self):
        # ΔW is 6 where the kernel has 3, which is half of that.
        b, a = 6 * E[2:3, :3], E[:3, 2:3]
        factor, parts = amplification(self.KERNEL, b, a)
        assert float(factor) == pytest.approx(2)
        assert float(parts.delta) == pytest.approx(6)
        assert float(parts.of_delta) == pytest.approx(3)
        assert float(parts.of_w) == pytest.approx(5)

    def test_all_directions_have_all_of_w(self):
        b = np.ones((3, 3)) + np.eye(3)
        _, parts = amplification(self.KERNEL, b, np.eye(3))
        norm = (25 + 16 + 9) ** 0.5
        assert float(parts.of_delta) == pytest.approx(norm)
        assert float(parts.of_w) == pytest.approx(norm)
        assert float(parts.of_random) == pytest.approx(norm)


@FEW
@given(SEEDS, st.sampled_from([(2, 6, 5), (4, 5, 8)]))
def test_it_is_the_papers(seed, shape):
    r, i, o = shape
    kernel = random_matrix(seed, i, o)
    a = random_matrix(seed + 1, i, r)
    b = random_matrix(seed + 2, r, o)
    u, s, vt = np.linalg.svd(a.astype(float) @ b)
    projected = u[:, :r].T @ kernel @ vt[:r].T
    # The kernel's singular values are 1, 1/2 and so on.
    top = np.linalg.norm(0.5 ** np.arange(r))
    expected = [np.linalg.norm(s), np.linalg.norm(projected), top]
    factor, parts = amplification(kernel, b, a)
    assert_allclose(parts[:3], expected, rtol=1e-4, atol=1e-5)
    assert_allclose(factor, parts.delta / parts.of_delta)


class TestRandomSubspaces:
    def projections(self, seed):
        """Norms of a kernel [12, 8] in 2,000 random subspaces of two dimensions."""
        kernel = np.broadcast_to(random_matrix(0, 12, 8), (2000, 12, 8))
        a, b = np.ones((2000, 12, 2)), np.ones((2000, 2, 8))
        key = jax.random.key(seed)
        _, parts = amplification(kernel, b, a, key=key)
        return parts.of_random

    def test_they_keep_the_expected_share_of_w(self):
        norm = np.linalg.norm(random_matrix(0, 12, 8))
        share = np.mean(self.projections(1) ** 2) / norm**2
        # Two of 12 inputs and two of 8 outputs.
        assert share == pytest.approx(2 * 2 / (12 * 8), rel=0.05)

    def test_another_key_draws_others(self):
        first = self.projections(1).tolist()
        second = self.projections(2).tolist()
        assert not set(first) & set(second)


class TestDegenerate:
    def test_an_untrained_adapter_amplifies_nothing(self):
        kernel = random_matrix(0, 6, 5)
        factor, parts = amplification(kernel, np.zeros((2, 5)), E[:, :2])
        assert np.isnan(factor)
        assert parts.delta == 0
        assert parts.of_delta == 0
        # The norm of 1 and 1/2.
        assert float(parts.of_w) == pytest.approx(1.25**0.5)

    def test_directions_without_a_delta_are_left_out(self):
        kernel = random_matrix(0, 6, 5)
        a = random_matrix(1, 6, 1)
        b = random_matrix(2, 1, 5)
        # The same direction twice: the second of rank 2 is arbitrary.
        factor, parts = amplification(kernel, np.repeat(b, 2, 0), np.repeat(a, 2, 1))
        projected = abs((a.T @ kernel @ b.T).item())
        assert float(parts.of_delta) == pytest.approx(projected, rel=1e-4)
        assert float(factor) == pytest.approx(2 / projected, rel=1e-4)


def test_each_layer_is_analyzed_alone():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2, 3, 6, 5))
    a = rng.normal(size=(2, 3, 6, 2))
    b = rng.normal(size=(2, 3, 2, 5))
    _, layers = amplification(kernel, b, a)
    _, layer = amplification(kernel[1, 2], b[1, 2], a[1, 2])
    # The random subspaces of layers are others than those of one.
    for values, value in zip(layers[:3], layer[:3], strict=True):
        assert_allclose(values[1, 2], value, atol=1e-5)


def test_bfloat16_is_widened():
    kernel = jnp.asarray(random_matrix(0, 6, 5), jnp.bfloat16)
    a = jnp.asarray(random_matrix(0, 6, 2), jnp.bfloat16)
    b = jnp.asarray(random_matrix(0, 2, 5), jnp.bfloat16)
    factor, parts = jax.eval_shape(amplification, kernel, b, a)
    dtypes = {array.dtype for array in (factor, *parts)}
    assert dtypes == {jnp.dtype(jnp.float32)}


class TestLargeKernel:
    def test_its_largest_singular_values(self):
        # Wider than an SVD is taken of.
        s = np.arange(1, 1041) ** -0.25
        kernel = reflect(s, 1040, 1100)
        _, parts = amplification(kernel, np.eye(2, 1100), np.eye(1040, 2))
        assert float(parts.of_w) == pytest.approx(np.linalg.norm(s[:2]), rel=1e-5)

    def test_gpt3_needs_no_second_matrix(self, temporary_bytes):
        shapes = [(12_288, 12_288), (64, 12_288), (12_288, 64)]
        # The kernel itself has 604 MB.
        assert 0 < temporary_bytes(amplification, shapes) < 100e6


class TestLayers:
    @pytest.fixture
    def layer(self, tiny):
        """The adapter of the query, with a B that is not zero."""
        method = methods.lora("query", 2)
        model = method.adapt(jax.random.key(0), tiny())
        path = "blocks/attention/query/lora_b"
        b = jax.random.normal(jax.random.key(1), tree.leaves(model)[path].shape)
        model = tree.replace(model, {path: b})
        return model.blocks.attention.query

    def test_the_numbers_of_table_7(self, layer):
        numbers = layer_amplification(layer)
        a, b = layer.factors()
        kernel = layer.base.kernel[...]
        factor, _ = amplification(kernel, b, a)
        assert_array_equal(numbers["factor"], factor)
        norms = [np.linalg.norm(matrix) for matrix in kernel]
        assert_allclose(numbers["w"], norms, rtol=1e-5)
        assert set(numbers) == {"factor", "w", *Parts._fields}

    def test_figure_8_has_the_first_directions_alone(self, layer):
        a, _ = layer.factors()
        phi = figure8_similarity(layer, a)
        # 10 % of 16 directions of W; A has no more than two.
        assert phi.shape == (2, 2, 2)
        assert phi.dtype == np.float64
        assert_array_equal(phi, kernel_similarity(layer, a)[:, :2])

    def test_similarity_of_w_with_a(self, layer):
        a, _ = layer.factors()
        phi = kernel_similarity(layer, a)
        assert phi.shape == (2, 16, 2)
        kernel = np.asarray(layer.base.kernel[0], float)
        w, _, _ = np.linalg.svd(kernel)
        u, _, _ = np.linalg.svd(np.asarray(a[0], float))
        top = (w[:, 0] @ u[:, 0]) ** 2
        assert_allclose(phi[0, 0, 0], top, atol=1e-4)
