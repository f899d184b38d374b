"""Products, norms and factorizations as the analyses need them, and checks of shapes.

Every function takes leading axes, for the layers of a stack. Nothing here rounds to
fewer bits than float32.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

# The default precision of some accelerators keeps 10 bits of a float32.
product = partial(
    jnp.matmul,
    precision="highest",
)

# Of each matrix, over the last two axes.
frobenius_norm = partial(
    jnp.linalg.norm,
    axis=(-2, -1),
)

# Without full_matrices=False, XLA allocates the square factor that compute_uv=False
# leaves empty: 604 MB for a kernel of GPT-3.
singular_values = partial(
    jnp.linalg.svd,
    full_matrices=False,
    compute_uv=False,
)


def orthonormal(
    x: Float[Array, "... d r"],
) -> Float[Array, "... d r"]:
    """Return an orthonormal basis of the column space of `x`, by QR."""
    basis, _ = jnp.linalg.qr(x)
    return basis


def widen(
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return `x` in float32, or in its own dtype if that is wider."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(dtype)


def is_tall(
    x: Float[Array, "... d r"],
) -> bool:
    """Return whether `x` has at least one column and no more columns than rows."""
    if x.ndim < 2:
        return False
    # The layer axes come before.
    rows, columns = x.shape[-2:]
    return 1 <= columns <= rows


def are_factors(
    a: Float[Array, "... i r"],
    b: Float[Array, "... r o"],
) -> bool:
    """Return whether `a @ b` is a product of rank r, with 1 <= r <= min(i, o)."""
    if not is_tall(a):
        return False
    if b.ndim < 2:
        return False
    rank, outputs = b.shape[-2:]
    return a.shape[-1] == rank <= outputs


def check_shapes(
    fits: bool,
    expected: str,
    **arrays: Any,
) -> None:
    """Raise unless the arrays fit and have the same leading axes.

    Raises:
        ValueError: names what was expected, and the shape of each array.
    """
    leading = set()
    for array in arrays.values():
        # The layer axes; the last two are the matrix.
        leading.add(array.shape[:-2])
    if fits and len(leading) == 1:
        return
    # All of them: which one is wrong depends on what was meant.
    shapes = []
    for name, array in arrays.items():
        shapes.append(f"{name} {array.shape}")
    listed = ", ".join(shapes)
    raise ValueError(f"expected {expected}; got {listed}")
