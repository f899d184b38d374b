"""Which rows of tokens fit a model."""

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
