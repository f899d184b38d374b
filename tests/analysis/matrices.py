"""Matrices for the tests of analyses, with singular values that are known."""

import numpy as np

# The unit vectors of six dimensions, as columns.
E = np.eye(6, dtype=np.float32)


def random_matrix(seed: int, *shape: int) -> np.ndarray:
    """Return a matrix whose singular values are 1, 1/2, 1/4 and so on.

    They are far apart, so that its singular vectors are well defined.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=shape)
    u, _, vt = np.linalg.svd(drawn, full_matrices=False)
    s = 0.5 ** np.arange(min(shape))
    matrix = u * s @ vt
    return matrix.astype(np.float32)


def reflect(s: np.ndarray, inputs: int, outputs: int) -> np.ndarray:
    """Return a kernel of these singular values, without an SVD.

    It is diag(s) between two Householder reflections.
    """
    rng = np.random.default_rng(0)
    u = rng.normal(size=inputs)
    v = rng.normal(size=outputs)
    u /= np.linalg.norm(u)
    v /= np.linalg.norm(v)
    kernel = np.zeros((inputs, outputs))
    np.fill_diagonal(kernel, s)
    kernel -= 2 * np.outer(u, u @ kernel)
    kernel -= 2 * np.outer(kernel @ v, v)
    return kernel.astype(np.float32)
