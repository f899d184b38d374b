"""Shapes that do not fit are refused, with what was expected and what came."""

import numpy as np
import pytest

from lora_jax import analysis

E = np.eye(6, dtype=np.float32)

ERRORS = [
    (
        analysis.subspace_similarity,
        (E[:, :2], E[:5, :2]),
        r"one d.*got a \(6, 2\), b \(5, 2\)",
    ),
    (
        analysis.subspace_similarity,
        (E[:2], E[:2]),
        r"r and s in 1\.\.d.*got a \(2, 6\), b \(2, 6\)",
    ),
    (
        analysis.subspace_similarity,
        (E[:, :2], E[None, :, :2]),
        r"same leading.*got a \(6, 2\), b \(1, 6, 2\)",
    ),
    (
        analysis.principal_angles,
        (E[0], E[:, :2]),
        r"a \[\.\.\., d, r\].*got a \(6,\), b \(6, 2\)",
    ),
    (
        analysis.directions,
        (E[:, :0],),
        r"1 <= r <= d; got a \(6, 0\)",
    ),
    (
        analysis.spectrum,
        (E[:, :2], E[:3]),
        r"a \[\.\.\., i, r\], b \[\.\.\., r, o\].*got a \(6, 2\), b \(3, 6\)",
    ),
    (
        analysis.spectrum,
        (E[:, :5], E[:5, :4]),
        r"r <= min\(i, o\).*got a \(6, 5\), b \(5, 4\)",
    ),
    (
        analysis.amplification,
        (E, E[:, :2], E[:2]),
        r"got kernel \(6, 6\), b \(6, 2\), a \(2, 6\)",
    ),
    (
        analysis.amplification,
        (E[:5], E[:2], E[:, :2]),
        r"got kernel \(5, 6\), b \(2, 6\), a \(6, 2\)",
    ),
]


@pytest.mark.parametrize(("function", "arrays", "message"), ERRORS)
def test_shapes_that_do_not_fit_are_refused(function, arrays, message):
    with pytest.raises(ValueError, match=message):
        function(*arrays)
