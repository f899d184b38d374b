"""Which rows of tokens fit a model, and where the tokens of packed rows stand."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


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


def text_positions(texts: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Return the position of each token within its text, in rows of several texts.

    `texts` has a number for each token, the same for all tokens of a text.
    """
    index = jnp.arange(texts.shape[1])
    before = jnp.roll(texts, 1, axis=1)
    is_first = (texts != before) | (index == 0)
    start = jax.lax.cummax(jnp.where(is_first, index, 0), axis=1)
    return index - start
