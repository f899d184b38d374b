"""Random weights of a new model: normal matrices, each drawn from a key of its own."""

import itertools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Key

Matrix = Float[Array, "..."]
# The standard deviation that BERT, GPT-2 and Llama are initialized with.
STD = 0.02


def matrix_drawer(key: Key[Array, ""]) -> Callable[..., Matrix]:
    """Return a function `draw(*shape, std=0.02)` that draws matrices N(0, std²).

    The n-th call uses the n-th key that is derived from `key`, so that a model's
    weights depend on the order in which its matrices are drawn.
    """
    counter = itertools.count()

    def draw(*shape: int, std: float = STD) -> Matrix:
        index = next(counter)
        matrix_key = jax.random.fold_in(key, index)
        unit_normal = jax.random.normal(matrix_key, shape)
        return std * unit_normal

    return draw
