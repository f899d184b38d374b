"""Rows of tokens of several lengths: what is padding, and which rows fit a model."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def check_row_length(tokens: Int[Array, "B T"], longest: int) -> None:
    """Raise ValueError if the rows are longer than `longest`, the model's positions.

    Without this check indexing would repeat the last position's embedding in silence.
    """
    length = tokens.shape[1]
    if length > longest:
        raise ValueError(
            f"expected rows of at most {longest} tokens, the model's positions; "
            f"got {length}"
        )


def mask_padding(
    tokens: Int[Array, "B T"], length: Int[Array, " B"] | None
) -> Bool[Array, "B 1 T"]:
    """Return true for the keys that are tokens, false for those that are padding.

    `length` has the number of real tokens of each row; all are real by default.
    """
    rows, size = tokens.shape
    if length is None:
        length = jnp.full(rows, size)
    index = jnp.arange(size)  # [T]
    is_real = index < length[:, None]  # [B, T]
    # One mask for all queries of a row.
    return is_real[:, None]
