"""What an adapter has learnt: its subspace beside another's, its singular values, what it amplifies (LoRA, section 7).

ΔW = a @ b is a kernel [i, o]: a [i, r] is the paper's A transposed, i the input space. It is never formed: QR of both factors
leaves an r x r matrix. Every function is jitted and takes leading axes (layers); it computes in float32, or wider if given so.
Directions of a singular value that is zero, to rounding, are arbitrary; with rank-deficient factors trust those above it only.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

EXACT = 1024  # up to this width by a full SVD (0.7 s; 4 s at 2,048), above it in a Krylov space
PASSES, SPARE = 6, 32  # the space's blocks, and columns of each beyond those asked for

_product = partial(
    jnp.matmul, precision="highest"
)  # the default of some accelerators has 10 bits
_norm = partial(jnp.linalg.norm, axis=(-2, -1))
# Without full_matrices=False XLA allocates the square factor that compute_uv=False leaves empty: 604 MB for GPT-3.
_values = partial(jnp.linalg.svd, full_matrices=False, compute_uv=False)


class Parts(NamedTuple):
    """Table 7, a number for each layer: ||ΔW||_F, and ||Uᵀ W V||_F with U and V of ΔW, of W itself, and random."""

    delta: Float[Array, "..."]
    of_delta: Float[Array, "..."]
    of_w: Float[Array, "..."]
    of_random: Float[Array, "..."]


@jax.jit
def directions(a: Float[Array, "... d r"]) -> Float[Array, "... d r"]:
    """The left singular vectors of a as columns, largest singular value first.

    Raises:
        ValueError: not 1 <= r <= d.
    """
    _check(_thin(a), "a [..., d, r], 1 <= r <= d", a=a)
    q, core = jnp.linalg.qr(_wide(a))
    return _product(q, jnp.linalg.svd(core)[0])


@jax.jit
def subspace_similarity(
    a: Float[Array, "... d r"], b: Float[Array, "... d s"]
) -> Float[Array, "... r s"]:
    """phi(A, B, i, j) in 0..1 at [..., i - 1, j - 1]: the share of the smaller top subspace in the other (eq. 4, appendix G).

    Of two random subspaces max(i, j)/d is expected. A kernel W [d, s] may stand for b (Figure 8).

    Raises:
        ValueError: a and b are not of one d, or have more columns than d.
    """
    _check_pair(a, b)
    overlap = _product(directions(a).mT, directions(b)) ** 2
    i, j = (1 + jnp.arange(size) for size in overlap.shape[-2:])
    return jnp.minimum(overlap.cumsum(-2).cumsum(-1) / jnp.minimum(i[:, None], j), 1)


@jax.jit
def principal_angles(
    a: Float[Array, "... d r"], b: Float[Array, "... d s"]
) -> Float[Array, "... min(r,s)"]:
    """The angles in radians between the column spaces, smallest first (Björck & Golub 1973).

    Raises:
        ValueError: a and b are not of one d, or have more columns than d.
    """
    _check_pair(a, b)
    large, small = sorted(
        (_orthonormal(_wide(a)), _orthonormal(_wide(b))), key=lambda q: -q.shape[-1]
    )
    cosines = _product(large.mT, small)
    sines = small - _product(large, cosines)
    # A cosine alone is blind below 3e-4 in float32, a sine near pi/2.
    return jnp.arctan2(_values(sines)[..., ::-1], _values(cosines))


@jax.jit
def delta_svd(
    a: Float[Array, "... i r"], b: Float[Array, "... r o"]
) -> tuple[Float[Array, "... i r"], Float[Array, "... r"], Float[Array, "... r o"]]:
    """(u, s, vt) with a @ b = u diag(s) vt, largest singular value first.

    Raises:
        ValueError: a and b do not fit, or r is larger than i or o.
    """
    _check(_fit(a, b), f"a [..., i, r], b {_B}", a=a, b=b)
    (left, core), (right, other) = jnp.linalg.qr(_wide(a)), jnp.linalg.qr(_wide(b).mT)
    u, s, vt = jnp.linalg.svd(_product(core, other.mT))
    return _product(left, u), s, _product(vt, right.mT)


@jax.jit
def spectrum(
    a: Float[Array, "... i r"], b: Float[Array, "... r o"]
) -> Float[Array, "... r"]:
    """The singular values of a @ b, largest first; errors as in `delta_svd`."""
    return delta_svd(a, b)[1]


@jax.jit
def amplification(
    kernel: Float[Array, "... i o"],
    b: Float[Array, "... r o"],
    a: Float[Array, "... i r"],
    *,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "..."], Parts]:
    """(factor, parts): ||ΔW||_F / ||Uᵀ W V||_F and what Table 7 has beside it (section 7.3, appendix H.4).

    `key` draws the random subspaces. A direction in which ΔW is zero is left out of `of_delta`; the factor of ΔW = 0 is NaN.
    `of_w` is exact up to min(i, o) = 1,024. Above, nothing of the kernel's size is made (but a bfloat16 kernel is widened), and it
    is at most 1e-4 low where the singular values decay, 0.5 % for a Gaussian kernel of width 3,000 and about 1 % of 12,288.

    Raises:
        ValueError: kernel, b and a do not fit, or r is larger than i or o.
    """
    fits = _fit(a, b) and kernel.shape[-2:] == (a.shape[-2], b.shape[-1])
    _check(fits, f"kernel [..., i, o], b {_B}, a [..., i, r]", kernel=kernel, b=b, a=a)
    kernel, (u, s, vt) = _wide(kernel), delta_svd(a, b)
    there = s > s.shape[-1] * jnp.finfo(s.dtype).eps * s[..., :1]
    u, v = u * there[..., None, :], vt.mT * there[..., None, :]
    keys = jax.random.split(jax.random.key(0) if key is None else key)
    drawn = (
        _orthonormal(jax.random.normal(k, x.shape, x.dtype))
        for k, x in zip(keys, (u, v), strict=True)
    )
    parts = Parts(
        delta=jnp.linalg.norm(s, axis=-1),
        of_delta=_norm(_within(kernel, u, v)),
        of_w=jnp.linalg.norm(_largest(kernel, s.shape[-1]), axis=-1),
        of_random=_norm(_within(kernel, *drawn)),
    )
    return parts.delta / parts.of_delta, parts


@jax.jit
def effective_rank(s: Float[Array, "... r"]) -> Float[Array, "..."]:
    """exp of the entropy of s / sum(s): 1 for one singular value, r for r equal ones, NaN for none (Roy & Vetterli 2007)."""
    s = _wide(s)
    return jnp.exp(jax.scipy.special.entr(s / s.sum(-1, keepdims=True)).sum(-1))


@jax.jit
def energy(s: Float[Array, "... r"]) -> Float[Array, "... r"]:
    """The share of sum(s²) in the top k, at [..., k - 1]; NaN if all are 0.

    The best approximation of rank k is sqrt(1 - energy) away, relative to ||ΔW||_F (Eckart & Young 1936).
    """
    captured = jnp.cumsum(_wide(s) ** 2, -1)
    return captured / captured[..., -1:]


def _within(kernel, u, v):
    return _product(_product(u.mT, kernel), v)


def _largest(kernel, k):
    """The k largest singular values: of the kernel, or if it is large of its rows in a Krylov space."""
    width = k + SPARE
    if min(kernel.shape[-2:]) > max(EXACT, PASSES * width):
        kernel = _product(_krylov(kernel, width).mT, kernel)
    return _values(kernel)[..., :k]


def _krylov(kernel, width):
    """Orthonormal columns [..., i, PASSES * width] that hold the largest left singular vectors (Musco & Musco 2015).

    All blocks are kept: the last alone, which is subspace iteration, is off by 2e-3 where they are by 4e-7 (k^(-1/4), k <= 3,000).
    """
    block, blocks = (
        jax.random.normal(jax.random.key(0), (kernel.shape[-1], width), kernel.dtype),
        [],
    )
    for _ in range(PASSES):
        blocks.append(_orthonormal(_product(kernel, block)))
        block = _product(
            blocks[-1].mT, kernel
        ).mT  # so that no transpose of the kernel is made
    return _orthonormal(jnp.concatenate(blocks, -1))


def _orthonormal(x):
    return jnp.linalg.qr(x)[0]


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


_B = "[..., r, o], 1 <= r <= min(i, o), and the same leading axes"


def _thin(x, rank=-1, width=-2) -> bool:
    return x.ndim >= 2 and 1 <= x.shape[rank] <= x.shape[width]


def _fit(a, b) -> bool:
    return _thin(a) and _thin(b, -2, -1) and a.shape[-1] == b.shape[-2]


def _check_pair(a, b) -> None:
    fits = _thin(a) and _thin(b) and a.shape[-2] == b.shape[-2]
    _check(
        fits,
        "a [..., d, r] and b [..., d, s] of one d, r and s in 1..d, and the same leading axes",
        a=a,
        b=b,
    )


def _check(fits: bool, expected: str, **got) -> None:
    if not fits or len({x.shape[:-2] for x in got.values()}) != 1:
        raise ValueError(
            f"expected {expected}; got "
            + ", ".join(f"{name} {x.shape}" for name, x in got.items())
        )
