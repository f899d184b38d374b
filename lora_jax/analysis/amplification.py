"""How much an update amplifies directions that W already has (LoRA, section 7.3).

An update ΔW = a @ b and its kernel W have the same shape [i, o]. Every function takes
leading axes, for the layers of a stack.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lora_jax import paper
from lora_jax.analysis.linear_algebra import (
    are_factors,
    check_shapes,
    frobenius_norm,
    orthonormal,
    product,
    singular_values,
    widen,
)
from lora_jax.analysis.spectrum import FACTOR_B, delta_svd
from lora_jax.analysis.subspaces import subspace_similarity

# A full SVD takes 0.7 s at this width and 4 s at 2,048; above it, W is projected on a
# Krylov space first.
EXACT_WIDTH = 1024
# The blocks of the Krylov space, and the columns of each beyond those asked for.
KRYLOV_BLOCKS = 6
SPARE_COLUMNS = 32
FIGURE8_COLUMNS = 4  # the directions j of A that Figure 8 shows


class Parts(NamedTuple):
    """Table 7, a number for each layer: Frobenius norms of ΔW, and of W in subspaces.

    W is projected, ||Uᵀ W V||, on the singular vectors U and V of ΔW, on W's own top r
    and on random ones.
    """

    delta: Float[Array, "..."]
    of_delta: Float[Array, "..."]
    of_w: Float[Array, "..."]
    of_random: Float[Array, "..."]


@jax.jit
def amplification(
    kernel: Float[Array, "... i o"],
    b: Float[Array, "... r o"],
    a: Float[Array, "... i r"],
    *,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "..."], Parts]:
    """Return the factor ||ΔW|| / ||Uᵀ W V||, and what Table 7 has beside it.

    Section 7.3 and appendix H.4. `key` draws the random subspaces. A direction in which
    ΔW is zero is left out of `of_delta`, and the factor of ΔW = 0 is NaN.

    `of_w` is exact up to min(i, o) = 1,024. Above that, nothing of the kernel's size is
    made (though a bfloat16 kernel is widened), and `of_w` is too low by at most 1e-4
    where the singular values decay, by 0.5 % for a Gaussian kernel of width 3,000, and
    by about 1 % for one of 12,288.

    Raises:
        ValueError: kernel, b and a do not fit, or r is larger than i or o.
    """
    fits = are_factors(a, b)
    fits = fits and kernel.shape[-2] == a.shape[-2]
    fits = fits and kernel.shape[-1] == b.shape[-1]
    expected = f"kernel [..., i, o], b {FACTOR_B}, a [..., i, r]"
    check_shapes(fits, expected, kernel=kernel, b=b, a=a)
    kernel = widen(kernel)
    u, s, v = _nonzero_directions(a, b)
    if key is None:
        key = jax.random.key(0)
    random_u, random_v = _random_subspaces(key, u, v)
    # The top r of W, r being the rank of ΔW.
    rank = s.shape[-1]
    largest = _largest_values(kernel, rank)
    parts = Parts(
        delta=jnp.linalg.norm(s, axis=-1),
        of_delta=_projected_norm(kernel, u, v),
        of_w=jnp.linalg.norm(largest, axis=-1),
        of_random=_projected_norm(kernel, random_u, random_v),
    )
    factor = parts.delta / parts.of_delta
    return factor, parts


def _nonzero_directions(
    a: Float[Array, "... i r"],
    b: Float[Array, "... r o"],
) -> tuple[
    Float[Array, "... i r"],
    Float[Array, "... r"],
    Float[Array, "... o r"],
]:
    """The SVD of ΔW, with singular vectors as columns.

    Those of a zero singular value are arbitrary, and become zero.
    """
    u, s, vt = delta_svd(a, b)
    # The bound of numpy's matrix_rank, for a matrix [r, r].
    rank = s.shape[-1]
    tolerance = rank * jnp.finfo(s.dtype).eps
    largest = s[..., :1]
    nonzero = s > tolerance * largest
    columns = nonzero[..., None, :]
    u = u * columns
    v = vt.mT * columns
    return u, s, v


def _random_subspaces(
    key: Key[Array, ""],
    u: Float[Array, "... i r"],
    v: Float[Array, "... o r"],
) -> tuple[
    Float[Array, "... i r"],
    Float[Array, "... o r"],
]:
    """Orthonormal columns of random subspaces, of the shapes of u and v."""
    left_key, right_key = jax.random.split(key)
    left = jax.random.normal(left_key, u.shape, u.dtype)
    right = jax.random.normal(right_key, v.shape, v.dtype)
    u = orthonormal(left)
    v = orthonormal(right)
    return u, v


def _projected_norm(
    kernel: Float[Array, "... i o"],
    u: Float[Array, "... i r"],
    v: Float[Array, "... o r"],
) -> Float[Array, "..."]:
    """||Uᵀ W V||."""
    rows = product(u.mT, kernel)  # [..., r, o]
    projected = product(rows, v)  # [..., r, r]
    return frobenius_norm(projected)


def _largest_values(
    kernel: Float[Array, "... i o"],
    count: int,
) -> Float[Array, "... count"]:
    """The largest singular values; of a large kernel, of its Krylov projection."""
    columns = count + SPARE_COLUMNS
    width = min(kernel.shape[-2:])
    # The projection must be narrower than the kernel to be worth it.
    if width > max(EXACT_WIDTH, KRYLOV_BLOCKS * columns):
        basis = _krylov_basis(kernel, columns)
        kernel = product(basis.mT, kernel)
    values = singular_values(kernel)
    return values[..., :count]


def _krylov_basis(
    kernel: Float[Array, "... i o"],
    columns: int,
) -> Float[Array, "... i n"]:
    """Orthonormal columns that span the largest left singular vectors.

    Musco & Musco 2015. All blocks are kept: the last alone, which is subspace
    iteration, is off by 2e-3 where they are by 4e-7 (singular values k^(-1/4),
    k <= 3,000).
    """
    outputs = kernel.shape[-1]
    # Always the same start: the result is that of the kernel alone.
    key = jax.random.key(0)
    block = jax.random.normal(
        key,
        (outputs, columns),
        kernel.dtype,
    )
    blocks = []
    for _ in range(KRYLOV_BLOCKS):
        # [..., i, columns]
        image = orthonormal(product(kernel, block))
        blocks.append(image)
        # In this order, so that no transpose of the kernel is made.
        rows = product(image.mT, kernel)
        block = rows.mT
    # n is the columns of all blocks together.
    stacked = jnp.concatenate(blocks, -1)
    return orthonormal(stacked)


def layer_amplification(
    layer: Any,
) -> dict[str, Float[Array, " L"]]:
    """Return Table 7's numbers of an adapter: the factor, ||W|| and the parts.

    Each is an array over layers; the factor is NaN where ΔW is zero.
    """
    a, b = layer.factors()
    # Products may be in bfloat16; norms are taken in float32.
    kernel = layer.base.kernel[...].astype(jnp.float32)
    factor, parts = amplification(kernel, b, a)
    # ||W||, of each layer.
    norm = jnp.linalg.norm(kernel, axis=(-2, -1))
    return {"factor": factor, "w": norm, **parts._asdict()}


def kernel_similarity(
    layer: Any,
    other: Float[Array, "L d r"],
) -> Float[Array, "L d r"]:
    """Return φ between W's input directions and those of `other` (Figure 8).

    `other` is A, or random directions to compare with.
    """
    kernel = layer.base.kernel[...].astype(jnp.float32)
    # A square factor has W's directions in the input space, and at most d columns.
    upper = jnp.linalg.qr(kernel.mT, mode="r")
    return subspace_similarity(upper.mT, other)


def figure8_similarity(
    layer: Any,
    other: Float[Array, "L d r"],
) -> Float[np.ndarray, "L i j"]:
    """Return `kernel_similarity` up to the last i and j of Figure 8, in float64.

    Those are the top 10 % of W's directions, and the top 4 of the others.
    """
    width = other.shape[-2]
    _, last = paper.lora.figure8_range(width)
    phi = kernel_similarity(layer, other)
    top = phi[..., :last, :FIGURE8_COLUMNS]
    # As rows store it: plain floats.
    return np.asarray(top, float)


def metrics_by_layer(numbers: dict[str, Float[Array, " L"]]) -> dict[str, float]:
    """Return the numbers of each layer as a row has them: `layer1/factor` and so on."""
    metrics = {}
    for name, values in numbers.items():
        for layer, value in enumerate(values.tolist(), start=1):
            metrics[f"layer{layer}/{name}"] = value
    return metrics
