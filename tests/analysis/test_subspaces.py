"""Similarity of subspaces: by hand, numpy and scipy in float64, and the expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import subspace_angles

from lora_jax import methods
from lora_jax.analysis import (
    factor_columns,
    layer_similarities,
    low_rank_layers,
    principal_angles,
    random_columns,
    shared_directions,
    similarity_metrics,
    subspace_similarity,
)
from tests.analysis.matrices import E, random_matrix

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25, deadline=None)


def paper_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Appendix G word for word, in float64, one (i, j) at a time."""
    u, _, _ = np.linalg.svd(a.astype(float))
    v, _, _ = np.linalg.svd(b.astype(float))
    phi = np.zeros((a.shape[1], b.shape[1]))
    for i, j in np.ndindex(phi.shape):
        # The paper counts from 1.
        overlap = u[:, : i + 1].T @ v[:, : j + 1]
        phi[i, j] = np.sum(overlap**2) / min(i + 1, j + 1)
    return phi


class TestSimilarity:
    def test_a_subspace_is_similar_to_itself(self):
        a = random_matrix(0, 6, 3)
        phi = subspace_similarity(a, a)
        assert_allclose(phi, np.ones((3, 3)), atol=1e-6)

    def test_orthogonal_subspaces_are_not_similar(self):
        phi = subspace_similarity(E[:, :2], E[:, 2:5])
        assert not phi.any()

    def test_by_hand(self):
        # Top directions e0, e1 against e1, (e0 + e2) / sqrt(2): squared cosines
        # (0, 1/2) and (1, 0).
        a = np.stack([2 * E[0], E[1]], 1)
        b = np.stack([E[0] + E[2], 3 * E[1]], 1)
        phi = subspace_similarity(a, b)
        assert_allclose(phi, [[0, 0.5], [1, 0.75]], atol=1e-6)

    @FEW
    @given(SEEDS, st.sampled_from([(4, 1, 4), (7, 3, 2), (20, 4, 4)]))
    def test_it_is_the_papers(self, seed, shape):
        d, r, s = shape
        a = random_matrix(seed, d, r)
        b = random_matrix(seed + 1, d, s)
        phi = subspace_similarity(a, b)
        assert_allclose(phi, paper_similarity(a, b), atol=1e-5)
        assert phi.dtype == jnp.float32
        assert phi.max() <= 1
        # It is symmetric in its subspaces.
        turned = subspace_similarity(b, a)
        assert_allclose(phi, turned.T, atol=1e-6)

    @FEW
    @given(SEEDS)
    def test_the_full_subspaces_similarity_is_blind_to_their_basis(self, seed):
        a = random_matrix(seed, 12, 3)
        b = random_matrix(seed + 1, 12, 3)
        mixed = a @ random_matrix(seed + 2, 3, 3)
        phi = subspace_similarity(a, b)
        mixed_phi = subspace_similarity(mixed, b)
        assert_allclose(mixed_phi[-1, -1], phi[-1, -1], atol=1e-4)

    def test_random_subspaces_have_the_expected_similarity(self):
        a = jax.random.normal(jax.random.key(0), (2000, 16, 3))
        b = jax.random.normal(jax.random.key(1), (2000, 16, 3))
        phi = subspace_similarity(a, b).mean(0)
        i, j = np.indices((3, 3)) + 1
        # The standard error of a mean of 2,000 is below 0.002.
        assert_allclose(phi, np.maximum(i, j) / 16, atol=0.01)

    def test_each_layer_is_analyzed_alone(self):
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(2, 3, 6, 5))
        a = rng.normal(size=(2, 3, 6, 2))
        layers = subspace_similarity(kernel, a)
        layer = subspace_similarity(kernel[1, 2], a[1, 2])
        assert_allclose(layers[1, 2], layer, atol=1e-5)


class TestAngles:
    def test_by_hand(self):
        t = 1e-5  # cos t is 1 in float32
        tilted = np.cos(t) * E[0] + np.sin(t) * E[1]
        a = E[:, [0, 2, 4]]
        b = np.stack([tilted, E[2] + E[3], E[5]], 1)
        angles = principal_angles(a, b)
        assert_allclose(angles, [t, np.pi / 4, np.pi / 2], rtol=1e-3)

    @FEW
    @given(SEEDS, st.sampled_from([(1, 1), (2, 4), (4, 3)]))
    def test_they_are_scipys(self, seed, columns):
        r, s = columns
        a = random_matrix(seed, 12, r)
        b = random_matrix(seed + 1, 12, s)
        # scipy has the largest first.
        expected = subspace_angles(a.astype(float), b.astype(float))[::-1]
        angles = principal_angles(a, b)
        assert_allclose(angles, expected, atol=1e-5)

    def test_each_layer_is_analyzed_alone(self):
        rng = np.random.default_rng(0)
        a = rng.normal(size=(2, 3, 6, 5))
        b = rng.normal(size=(2, 3, 6, 2))
        layers = principal_angles(a, b)
        layer = principal_angles(a[1, 2], b[1, 2])
        assert_allclose(layers[1, 2], layer, atol=1e-5)


# A kernel [12,288, 12,288] of GPT-3 has 604 MB.
@pytest.mark.parametrize("function", [subspace_similarity, principal_angles])
def test_gpt3_needs_no_second_matrix(temporary_bytes, function):
    shapes = [(12_288, 64), (12_288, 64)]
    assert 0 < temporary_bytes(function, shapes) < 100e6


class TestLayers:
    @pytest.fixture
    def model(self, tiny):
        """LoRA on query and value; the adapter of key is idle."""
        method = methods.lora(
            "query,value", 3, rank_multiple=4, idle_targets="query,key,value"
        )
        return method.adapt(jax.random.key(0), tiny())

    def test_idle_adapters_are_left_out(self, model):
        assert set(methods.adapters(model)) == {
            "blocks/attention/query",
            "blocks/attention/key",
            "blocks/attention/value",
        }
        assert set(low_rank_layers(model)) == {
            "blocks/attention/query",
            "blocks/attention/value",
        }

    def test_a_model_without_adapters_has_none(self, tiny):
        assert low_rank_layers(tiny()) == {}

    def test_columns_of_both_sides(self, tiny):
        method = methods.lora("up", 3)
        adapted = method.adapt(jax.random.key(0), tiny())
        layer = low_rank_layers(adapted)["blocks/mlp/up"]
        # Two layers, from 16 to 32.
        assert factor_columns(layer, "input").shape == (2, 16, 3)
        assert factor_columns(layer, "output").shape == (2, 32, 3)
        # Random ones take the place of one layer's.
        random = random_columns(layer, "output", seed=1)
        assert random.shape == (32, 3)
        other = random_columns(layer, "output", seed=2)
        assert not np.allclose(random, other)

    def test_matrices_without_layers_have_one(self):
        a, b = random_matrix(0, 6, 2), random_matrix(1, 6, 3)
        phi = layer_similarities(a, b)
        assert phi.shape == (1, 2, 3)
        assert phi.dtype == np.float64


class TestNumbers:
    # Two layers, of r = 2 and d = 100.
    PHI = np.array([[[0.5, 0.6], [0.6, 0.7]], [[0.3, 0.4], [0.4, 0.5]]])

    def test_metrics(self):
        metrics = similarity_metrics(self.PHI, 100)
        assert metrics == pytest.approx(
            {
                "layer1/phi_1_1": 0.5,
                "layer2/phi_1_1": 0.3,
                "mean/phi_1_1": 0.4,
                "mean/phi_2_2": 0.6,
                "expected/phi_1_1": 0.01,
                "expected/phi_2_2": 0.02,
            }
        )

    def test_random_subspaces_share_no_direction(self):
        phi = np.full((8, 8), 8 / 100)
        assert shared_directions(phi, 100) == pytest.approx(0)

    def test_one_shared_direction_is_counted_beyond_chance(self):
        r, d = 8, 100
        by_chance = r * r / d
        phi = np.full((r, r), (1 + by_chance) / r)
        assert shared_directions(phi, d) == pytest.approx(1)
