"""The singular values of a low-rank update, and what they say about its rank.

The update ΔW = a @ b has the shape of a kernel [i, o]. It is never formed: QR of both
factors leaves a matrix [r, r] to decompose. Every function is jitted.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lora_jax.analysis.linear_algebra import (
    are_factors,
    check_shapes,
    product,
    widen,
)

FACTOR_B = "[..., r, o], 1 <= r <= min(i, o), and the same leading axes"
"""What is expected of b beside a [..., i, r], for error messages."""


@jax.jit
def delta_svd(
    a: Float[Array, "... i r"],
    b: Float[Array, "... r o"],
) -> tuple[
    Float[Array, "... i r"],
    Float[Array, "... r"],
    Float[Array, "... r o"],
]:
    """Return (u, s, vt) with `a @ b = u @ diag(s) @ vt`, the largest value first.

    Directions of a singular value that is zero, to rounding, are arbitrary.

    Raises:
        ValueError: a and b do not fit, or r is larger than i or o.
    """
    # Shapes first: under jit they are known before anything is computed.
    expected = f"a [..., i, r], b {FACTOR_B}"
    check_shapes(are_factors(a, b), expected, a=a, b=b)
    # Q [..., i, r] and [..., o, r]; both R are [..., r, r].
    left, left_core = jnp.linalg.qr(widen(a))
    right, right_core = jnp.linalg.qr(widen(b).mT)
    # The product of the two R has the singular values of a @ b.
    core = product(left_core, right_core.mT)
    u, s, vt = jnp.linalg.svd(core)
    # Back to the spaces of inputs and outputs.
    u = product(left, u)
    vt = product(vt, right.mT)
    return u, s, vt


@jax.jit
def spectrum(
    a: Float[Array, "... i r"],
    b: Float[Array, "... r o"],
) -> Float[Array, "... r"]:
    """Return the singular values of `a @ b`, the largest first.

    Raises:
        ValueError: as `delta_svd`.
    """
    _, s, _ = delta_svd(a, b)
    return s


@jax.jit
def effective_rank(
    s: Float[Array, "... r"],
) -> Float[Array, "..."]:
    """Return exp of the entropy of `s / sum(s)` (Roy & Vetterli 2007).

    It is 1 for a single nonzero singular value, r for r equal ones, and NaN if all
    are zero.
    """
    s = widen(s)
    # They sum to 1, as probabilities do.
    shares = s / s.sum(-1, keepdims=True)
    # -p log p, and 0 for p = 0.
    terms = jax.scipy.special.entr(shares)
    return jnp.exp(terms.sum(-1))


@jax.jit
def energy(
    s: Float[Array, "... r"],
) -> Float[Array, "... r"]:
    """Return the share of `sum(s ** 2)` in the top k, at [..., k - 1].

    The best approximation of rank k has a relative error of `sqrt(1 - energy)` in the
    Frobenius norm (Eckart & Young 1936). NaN if all singular values are zero.
    """
    squares = widen(s) ** 2
    # Of the top 1, 2, ... directions; the last is that of all.
    captured = jnp.cumsum(squares, -1)
    total = captured[..., -1:]
    return captured / total
