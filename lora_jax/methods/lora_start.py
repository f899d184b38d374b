"""What LoRA's adapters start from: A, B and the scale of each direction, by layer.

A layer may be one of a kind or a stack of layers, whose matrix has a leading layer axis.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lora_jax.methods.base import matrix_name

INITS = ("gaussian", "kaiming_uniform")


def initial_factors(
    key: Key[Array, ""],
    path: str,
    layer: Any,
    rank: int,
    init: str,
) -> tuple[
    Float[Array, "... i r"],
    Float[Array, "... r o"],
]:
    """Return A and B before training.

    Raises:
        ValueError: the rank is larger than a side of the layer's matrix.
    """
    # An embedding's i is the vocabulary.
    *stack, i, o = _matrix_shape(layer)
    a_shape = (*stack, i, rank)
    b_shape = (*stack, rank, o)
    limit = min(i, o)
    if rank > limit:
        raise ValueError(
            f"rank: expected 1 <= rank <= {limit} for {path} ({i} x {o}), got {rank}"
        )
    # With the rank in the key, adapters of two ranks share no direction by construction,
    # which would look like the similarity of subspaces that section 7.2 measures.
    key = jax.random.fold_in(key, rank)
    if matrix_name(layer) == "embedding":
        # As in loralib: tokens select rows of A, so A is the one that is zero.
        a = jnp.zeros(a_shape)
        b = jax.random.normal(key, b_shape)
        return a, b
    a = _draw(key, init, a_shape)
    b = jnp.zeros(b_shape)
    return a, b


def zero_factors(
    layer: Any, rank: int
) -> tuple[Float[Array, "... i r"], Float[Array, "... r o"]]:
    """Return the A and B of an idle adapter, which stay zeros."""
    *stack, i, o = _matrix_shape(layer)
    return jnp.zeros((*stack, i, rank)), jnp.zeros((*stack, rank, o))


def _draw(
    key: Key[Array, ""],
    init: str,
    shape: tuple[int, ...],
) -> Float[Array, "... i r"]:
    inputs = shape[-2]
    if init == "gaussian":
        # The variance of U(±1/sqrt(i)), which is 1/(3 i).
        deviation = (3 * inputs) ** -0.5
        return jax.random.normal(key, shape) * deviation
    bound = inputs**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def scales(
    path: str,
    layer: Any,
    rank: int,
    value: float,
    layers: Sequence[int] | None,
) -> Float[Array, "... r"]:
    """Return the scale of each direction: `value`, but 0 in blocks not among `layers`.

    Raises:
        ValueError: `layers` is empty, or has an index that the stack has not; or the
            layer is no stack.
    """
    *stack, _, _ = _matrix_shape(layer)
    # [L, r] for a stack, else [r]
    shape = (*stack, rank)
    directions = jnp.full(shape, value, jnp.float32)
    if layers is None:
        return directions
    _check_layers(path, stack, layers)
    # [L, 1]
    is_adapted = jnp.zeros((*stack, 1))
    indices = jnp.array(layers)
    is_adapted = is_adapted.at[indices].set(1)
    return directions * is_adapted


def _check_layers(path: str, stack: Sequence[int], layers: Sequence[int]) -> None:
    expected = "none, it is no layer of a stack"
    if stack:
        depth = stack[0]
        expected = f"indices in 0 … {depth - 1}"
        # An empty selection would adapt nothing.
        if layers and min(layers) >= 0 and max(layers) < depth:
            return
    indices = tuple(layers)
    raise ValueError(f"layers: expected for {path} {expected}, got {indices}")


def padded(
    a: Float[Array, "... i r"],
    b: Float[Array, "... r o"],
    scale: Float[Array, "... r"],
    rank_multiple: int,
) -> tuple[Array, Array, Array]:
    """Return A, B and the scale with the rank rounded up by idle directions of zeros."""
    rank = scale.shape[-1]
    # Numbers of zeros before and after, for each axis.
    padding = (0, -rank % rank_multiple)
    none = (0, 0)
    stack = [none] * (scale.ndim - 1)
    a_padding = [*stack, none, padding]
    b_padding = [*stack, padding, none]
    scale_padding = [*stack, padding]
    return (
        jnp.pad(a, a_padding),
        jnp.pad(b, b_padding),
        jnp.pad(scale, scale_padding),
    )


def _matrix_shape(layer: Any) -> tuple[int, ...]:
    name = matrix_name(layer)
    matrix = getattr(layer, name)
    return matrix.shape
