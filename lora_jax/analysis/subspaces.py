"""Which directions two low-rank updates have in common (LoRA, section 7.2).

An update ΔW = a @ b has the shape of a kernel [i, o]: `a` [i, r] is the paper's A
transposed, so its columns are directions in the input space, and the rows of `b`
[r, o] are directions in the output space. Of factors that are rank deficient, only
the directions of nonzero singular values mean something.

The first functions compare arrays and are jitted; those below them take the layers of
an adapted model.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lora_jax import methods
from lora_jax.analysis.linear_algebra import (
    check_shapes,
    is_tall,
    orthonormal,
    product,
    singular_values,
    widen,
)


@jax.jit
def directions(
    a: Float[Array, "... d r"],
) -> Float[Array, "... d r"]:
    """Return the left singular vectors of `a` as columns, the largest value first.

    Raises:
        ValueError: not 1 <= r <= d.
    """
    check_shapes(is_tall(a), "a [..., d, r], 1 <= r <= d", a=a)
    # The SVD of R [..., r, r] is cheaper than that of a.
    basis, core = jnp.linalg.qr(widen(a))
    u, _, _ = jnp.linalg.svd(core)
    return product(basis, u)


@jax.jit
def subspace_similarity(
    a: Float[Array, "... d r"],
    b: Float[Array, "... d s"],
) -> Float[Array, "... r s"]:
    """Return φ(A, B, i, j) from 0 to 1 at [..., i - 1, j - 1] (eq. 4, appendix G).

    It is the share of the smaller of two subspaces that lies in the larger: of the top
    i directions of `a` and the top j of `b`. Of random subspaces max(i, j) / d is
    expected. A kernel [d, s] may stand for `b` (Figure 8).

    Raises:
        ValueError: a and b differ in d, or have more columns than d.
    """
    _check_pair(a, b)
    # Of each direction of a with each of b: [..., r, s].
    cosines = product(directions(a).mT, directions(b))
    squares = cosines**2
    # The sum over the top i and the top j.
    overlap = squares.cumsum(-2).cumsum(-1)
    rank_a, rank_b = squares.shape[-2:]
    i = 1 + jnp.arange(rank_a)
    j = 1 + jnp.arange(rank_b)
    smaller = jnp.minimum(i[:, None], j)
    # Rounding can exceed 1.
    return jnp.minimum(overlap / smaller, 1)


@jax.jit
def principal_angles(
    a: Float[Array, "... d r"],
    b: Float[Array, "... d s"],
) -> Float[Array, "... min(r,s)"]:
    """Return the angles between two column spaces in radians, the smallest first.

    Björck & Golub 1973. No experiment uses them: they are the usual measure outside
    the LoRA paper, for a look at trained adapters.

    Raises:
        ValueError: a and b differ in d, or have more columns than d.
    """
    _check_pair(a, b)
    # The narrower subspace has as many angles as columns.
    large = orthonormal(widen(a))
    small = orthonormal(widen(b))
    if small.shape[-1] > large.shape[-1]:
        large, small = small, large
    # What of the smaller subspace lies in the larger, and what beside it.
    projected = product(large.mT, small)
    beside = small - product(large, projected)
    cosines = singular_values(projected)
    # Descending too: turned around they belong to the cosines.
    sines = singular_values(beside)[..., ::-1]
    # A cosine alone is blind below 3e-4 in float32, a sine near pi / 2.
    return jnp.arctan2(sines, cosines)


def _check_pair(a: Array, b: Array) -> None:
    fits = is_tall(a) and is_tall(b)
    fits = fits and a.shape[-2] == b.shape[-2]
    expected = (
        "a [..., d, r] and b [..., d, s] of one d, r and s in 1..d, "
        "and the same leading axes"
    )
    check_shapes(fits, expected, a=a, b=b)


def low_rank_layers(model: Any) -> dict[str, Any]:
    """Return the adapters of a model that have low-rank factors, by path.

    An idle adapter, whose factors have no directions, is left out: it only makes
    models with different targets share a compiled program.
    """
    layers = {}
    for path, layer in methods.adapters(model).items():
        if not hasattr(layer, "factors"):
            continue
        a, _ = layer.factors()
        # An idle adapter has r = 0.
        if a.size:
            layers[path] = layer
    return layers


def factor_columns(
    layer: Any,
    side: Literal["input", "output"],
) -> Float[Array, "L d r"]:
    """Return the factor of an update that spans its input or output space, as columns.

    "input" is A, as in the paper; "output" is B transposed.
    """
    a, b = layer.factors()  # [L, i, r], [L, r, o]
    if side == "input":
        return a
    return b.mT


def random_columns(
    layer: Any,
    side: Literal["input", "output"],
    seed: int,
) -> Float[Array, "d r"]:
    """Return random directions in the place of `factor_columns`, without layers.

    The paper compares with them in Figure 4.
    """
    shape = factor_columns(layer, side).shape
    # One layer stands for all: they differ in nothing.
    return jax.random.normal(jax.random.key(seed), shape[-2:])


def layer_similarities(
    left: Float[Array, "*L d r"],
    right: Float[Array, "*L d s"],
) -> Float[np.ndarray, "L r s"]:
    """Return `subspace_similarity` in float64 with one layer axis, of length 1 if none.

    Raises:
        ValueError: as `subspace_similarity`.
    """
    similarity = subspace_similarity(left, right)
    # As rows store it: plain floats.
    phi = np.asarray(similarity, float)
    return phi.reshape(-1, *phi.shape[-2:])


def similarity_metrics(
    phi: Float[np.ndarray, "L r s"],
    width: int,
) -> dict[str, float]:
    """Return φ(1, 1) of each layer, and the means of φ(1, 1) and φ(r, r) over layers.

    The keys are `layer1/phi_1_1` and `mean/phi_1_1`; `expected/phi_1_1` is what random
    directions in `width` dimensions would have.
    """
    # The lower rank: A's, which the paper puts first.
    rank = phi.shape[-2]
    metrics = {}
    # Layers count from 1, as in the paper.
    for number, similarity in enumerate(phi, start=1):
        metrics[f"layer{number}/phi_1_1"] = similarity[0, 0]
    # The top direction, and all directions of the lower rank.
    for i in (1, rank):
        diagonal = phi[:, i - 1, i - 1]
        metrics[f"mean/phi_{i}_{i}"] = diagonal.mean()
    for i in (1, rank):
        metrics[f"expected/phi_{i}_{i}"] = i / width
    return metrics


def shared_directions(
    phi: Float[np.ndarray, "r s"],
    width: int,
) -> float:
    """Return how many directions are shared beyond those that random subspaces share.

    That is r (φ(r, r) - r / d), with d the width of the space.
    """
    rank = len(phi)
    expected = rank / width
    # φ(r, r): of all directions of the lower rank.
    similarity = phi.diagonal()[-1]
    return rank * (similarity - expected)
