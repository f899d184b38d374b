"""The analysis against cases done by hand, numpy and scipy in float64, and the expectation over random subspaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from lora_jax import analysis

E = np.eye(6, dtype=np.float32)
seeds = st.integers(0, 2**32 - 1)
some = settings(max_examples=25, deadline=None)


def drawn(seed: int, *shape: int) -> np.ndarray:
    """A matrix whose singular values are 1, 1/2, 1/4, …: its singular vectors are well defined."""
    rng = np.random.default_rng(seed)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return (u * 0.5 ** np.arange(min(shape)) @ vt).astype(np.float32)


def phi(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Appendix G word for word, in float64, one (i, j) at a time."""
    u, v = (np.linalg.svd(x.astype(float))[0] for x in (a, b))
    r, s = a.shape[1], b.shape[1]
    return np.array(
        [
            [np.sum((u[:, :i].T @ v[:, :j]) ** 2) / min(i, j) for j in range(1, s + 1)]
            for i in range(1, r + 1)
        ]
    )


def test_a_subspace_is_similar_to_itself():
    a = drawn(0, 6, 3)
    np.testing.assert_allclose(
        analysis.subspace_similarity(a, a), np.ones((3, 3)), atol=1e-6
    )


def test_orthogonal_subspaces_are_not_similar():
    assert not analysis.subspace_similarity(E[:, :2], E[:, 2:5]).any()


def test_similarity_by_hand():
    # Top directions e0, e1 against e1, (e0 + e2) / sqrt(2): squared cosines (0, 1/2), (1, 0).
    a, b = np.stack([2 * E[0], E[1]], 1), np.stack([E[0] + E[2], 3 * E[1]], 1)
    np.testing.assert_allclose(
        analysis.subspace_similarity(a, b), [[0, 0.5], [1, 0.75]], atol=1e-6
    )


@some
@given(seeds, st.sampled_from([(4, 1, 4), (7, 3, 2), (20, 4, 4)]))
def test_similarity_is_the_paper_s(seed, shape):
    d, r, s = shape
    a, b = drawn(seed, d, r), drawn(seed + 1, d, s)
    found = analysis.subspace_similarity(a, b)
    np.testing.assert_allclose(found, phi(a, b), atol=1e-5)
    np.testing.assert_allclose(found, analysis.subspace_similarity(b, a).T, atol=1e-6)
    assert found.dtype == jnp.float32 and found.max() <= 1


@some
@given(seeds)
def test_similarity_of_whole_subspaces_is_blind_to_their_basis(seed):
    a, b, mix = drawn(seed, 12, 3), drawn(seed + 1, 12, 3), drawn(seed + 2, 3, 3)
    found, wanted = (analysis.subspace_similarity(x, b)[-1, -1] for x in (a @ mix, a))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_random_subspaces_have_the_expected_similarity():
    a, b = (jax.random.normal(jax.random.key(seed), (2000, 16, 3)) for seed in (0, 1))
    i, j = np.indices((3, 3)) + 1
    # The standard error of a mean of 2,000 is below 0.002.
    np.testing.assert_allclose(
        analysis.subspace_similarity(a, b).mean(0), np.maximum(i, j) / 16, atol=0.01
    )


def test_angles_by_hand():
    t = 1e-5  # cos t is 1 in float32
    small = np.cos(t) * E[0] + np.sin(t) * E[1]
    found = analysis.principal_angles(
        E[:, [0, 2, 4]], np.stack([small, E[2] + E[3], E[5]], 1)
    )
    np.testing.assert_allclose(found, [t, np.pi / 4, np.pi / 2], rtol=1e-3)


@some
@given(seeds, st.sampled_from([(1, 1), (2, 4), (4, 3)]))
def test_angles_are_scipy_s(seed, columns):
    r, s = columns
    a, b = drawn(seed, 12, r), drawn(seed + 1, 12, s)
    wanted = subspace_angles(a.astype(float), b.astype(float))[::-1]
    np.testing.assert_allclose(analysis.principal_angles(a, b), wanted, atol=1e-5)


@some
@given(seeds, st.sampled_from([(1, 4, 6), (4, 8, 5)]))
def test_the_spectrum_is_that_of_the_product(seed, shape):
    r, i, o = shape
    a, b = drawn(seed, i, r), drawn(seed + 1, r, o)
    u, s, vt = analysis.delta_svd(a, b)
    np.testing.assert_allclose(u * s @ vt, a @ b, atol=1e-6)
    np.testing.assert_allclose(u.T @ u, np.eye(r), atol=1e-5)
    np.testing.assert_allclose(vt @ vt.T, np.eye(r), atol=1e-5)
    np.testing.assert_allclose(
        analysis.spectrum(a, b), np.linalg.svd(a.astype(float) @ b)[1][:r], atol=1e-6
    )


def test_amplification_by_hand():
    kernel = np.diag([5.0, 4, 3])
    factor, parts = analysis.amplification(
        kernel, 6 * E[2:3, :3], E[:3, 2:3]
    )  # 6 where the kernel has 3
    assert [float(x) for x in (factor, *parts[:3])] == pytest.approx([2, 6, 3, 5])
    parts = analysis.amplification(kernel, np.ones((3, 3)) + np.eye(3), np.eye(3))[
        1
    ]  # the whole space, three times
    assert [float(part) for part in parts[1:]] == pytest.approx([50**0.5] * 3)


@some
@given(seeds, st.sampled_from([(2, 6, 5), (4, 5, 8)]))
def test_amplification_is_the_paper_s(seed, shape):
    r, i, o = shape
    kernel, a, b = drawn(seed, i, o), drawn(seed + 1, i, r), drawn(seed + 2, r, o)
    u, s, vt = np.linalg.svd(a.astype(float) @ b)
    within = np.linalg.norm(u[:, :r].T @ kernel @ vt[:r].T)
    wanted = [np.linalg.norm(s), within, np.linalg.norm(0.5 ** np.arange(r))]
    factor, parts = analysis.amplification(kernel, b, a)
    np.testing.assert_allclose(parts[:3], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(factor, parts.delta / parts.of_delta)


def test_random_subspaces_keep_the_expected_share_of_w():
    kernel, a, b = drawn(0, 12, 8), np.ones((2000, 12, 2)), np.ones((2000, 2, 8))
    many = np.broadcast_to(kernel, (2000, 12, 8))
    first, other = (
        analysis.amplification(many, b, a, key=jax.random.key(i))[1].of_random
        for i in (1, 2)
    )
    assert np.mean(first**2) / np.linalg.norm(kernel) ** 2 == pytest.approx(
        2 * 2 / (12 * 8), rel=0.05
    )
    assert not set(first.tolist()) & set(other.tolist())


def test_an_untrained_adapter_amplifies_nothing():
    kernel = drawn(0, 6, 5)
    factor, parts = analysis.amplification(kernel, np.zeros((2, 5)), E[:, :2])
    assert np.isnan(factor) and parts.delta == 0 and parts.of_delta == 0
    assert float(parts.of_w) == pytest.approx(1.25**0.5)
    assert not analysis.spectrum(E[:, :2], np.zeros((2, 5))).any()


def test_directions_without_a_delta_are_left_out():
    kernel, a, b = drawn(0, 6, 5), drawn(1, 6, 1), drawn(2, 1, 5)
    factor, parts = analysis.amplification(
        kernel, np.repeat(b, 2, 0), np.repeat(a, 2, 1)
    )
    assert float(parts.of_delta) == pytest.approx(
        abs((a.T @ kernel @ b.T).item()), rel=1e-4
    )
    assert float(factor) == pytest.approx(2 / float(parts.of_delta), rel=1e-4)


def test_layers_are_analysed_each_for_itself():
    rng = np.random.default_rng(0)
    kernel, a, b = (
        rng.normal(size=(2, 3, *shape)) for shape in ((6, 5), (6, 2), (2, 5))
    )

    def every(kernel, a, b):
        parts = analysis.amplification(kernel, b, a)[1][:3]
        pair = (
            analysis.subspace_similarity(kernel, a),
            analysis.principal_angles(kernel, a),
        )
        return [*pair, analysis.spectrum(a, b), *parts]

    for found, wanted in zip(
        every(kernel, a, b), every(kernel[1, 2], a[1, 2], b[1, 2]), strict=True
    ):
        np.testing.assert_allclose(found[1, 2], wanted, atol=1e-5)


def test_effective_rank_and_energy_by_hand():
    s = jnp.array(
        [[1.0, 1, 1], [2, 0, 0], [4, 2, 2], [0, 0, 0]]
    )  # the third: shares 1/2, 1/4, 1/4, so 1.5 bits
    np.testing.assert_allclose(
        analysis.effective_rank(s), [3, 1, 2**1.5, np.nan], rtol=1e-6
    )
    wanted = [[1 / 3, 2 / 3, 1], [1, 1, 1], [16 / 24, 20 / 24, 1], [np.nan] * 3]
    np.testing.assert_allclose(analysis.energy(s), wanted, rtol=1e-6)


def test_narrow_numbers_are_widened():
    kernel, a, b = (
        jnp.asarray(drawn(0, *shape), jnp.bfloat16)
        for shape in ((6, 5), (6, 2), (2, 5))
    )
    wide = analysis.spectrum(a.astype(jnp.float32), b.astype(jnp.float32))
    assert (
        analysis.spectrum(a, b).dtype == jnp.float32
        and analysis.spectrum(a, b).tolist() == wide.tolist()
    )
    factor, parts = jax.eval_shape(analysis.amplification, kernel, b, a)
    assert {x.dtype for x in (factor, *parts)} == {jnp.dtype(jnp.float32)}


def reflected(s: np.ndarray, i: int, o: int) -> np.ndarray:
    """A kernel [i, o] of known singular values without an SVD: diag(s) between two reflections."""
    rng = np.random.default_rng(0)
    kernel = np.zeros((i, o))
    np.fill_diagonal(kernel, s)
    u, v = (x / np.linalg.norm(x) for x in (rng.normal(size=i), rng.normal(size=o)))
    kernel -= 2 * np.outer(u, u @ kernel)
    return (kernel - 2 * np.outer(kernel @ v, v)).astype(np.float32)


def test_a_large_kernel_s_largest_singular_values():
    s = np.arange(1, 1041) ** -0.25
    parts = analysis.amplification(
        reflected(s, 1040, 1100), np.eye(2, 1100), np.eye(1040, 2)
    )[1]
    assert float(parts.of_w) == pytest.approx(np.linalg.norm(s[:2]), rel=1e-5)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (analysis.amplification, [(12_288, 12_288), (64, 12_288), (12_288, 64)]),
        (analysis.delta_svd, [(12_288, 64), (64, 12_288)]),
        (analysis.subspace_similarity, [(12_288, 64)] * 2),
        (analysis.principal_angles, [(12_288, 64)] * 2),
    ],
)
def test_gpt3_needs_no_second_matrix(function, shapes):
    abstract = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    memory = function.lower(*abstract).compile().memory_analysis()
    assert 0 < memory.temp_size_in_bytes < 100e6  # the matrix itself has 604e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: analysis.subspace_similarity(E[:, :2], E[:5, :2]),
            r"one d.*got a \(6, 2\), b \(5, 2\)",
        ),
        (
            lambda: analysis.subspace_similarity(E[:2], E[:2]),
            r"r and s in 1\.\.d.*got a \(2, 6\), b \(2, 6\)",
        ),
        (
            lambda: analysis.subspace_similarity(E[:, :2], E[None, :, :2]),
            r"same leading.*got a \(6, 2\), b \(1, 6, 2\)",
        ),
        (
            lambda: analysis.principal_angles(E[0], E[:, :2]),
            r"a \[\.\.\., d, r\].*got a \(6,\), b \(6, 2\)",
        ),
        (lambda: analysis.directions(E[:, :0]), r"1 <= r <= d; got a \(6, 0\)"),
        (
            lambda: analysis.spectrum(E[:, :2], E[:3]),
            r"a \[\.\.\., i, r\], b \[\.\.\., r, o\].*got a \(6, 2\), b \(3, 6\)",
        ),
        (
            lambda: analysis.spectrum(E[:, :5], E[:5, :4]),
            r"r <= min\(i, o\).*got a \(6, 5\), b \(5, 4\)",
        ),
        (
            lambda: analysis.amplification(E, E[:, :2], E[:2]),
            r"got kernel \(6, 6\), b \(6, 2\), a \(2, 6\)",
        ),
        (
            lambda: analysis.amplification(E[:5], E[:2], E[:, :2]),
            r"got kernel \(5, 6\), b \(2, 6\), a \(6, 2\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
