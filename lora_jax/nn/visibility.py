"""Which keys a token attends to, without a matrix of tokens by keys.

Shape letters are those of `layers.py`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Visibility(NamedTuple):
    """Which keys the tokens of each row attend to. By default these are all keys.

    Keys are counted from the first one that is no prefix's.
    """

    start: Int[Array, " B"] | None = None  # the first key of the text
    stop: Int[Array, " B"] | None = None  # the first key after the text
    # The key of the first query, if attention is causal; else None.
    first_query: Int[Array, ""] | int | None = None
    prefix: int = 0  # keys before all others, which every token attends to
    # The text that each key is of, in rows of several; a token attends to its text.
    texts: Int[Array, "B S"] | None = None

    def matrix(
        self, queries: Int[Array, " T"], keys: Int[Array, " S"]
    ) -> Bool[Array, "#B #T S"]:
        """Return whether queries attend to keys, for indices of both; 0 is the first."""
        index = keys - self.prefix
        visible = jnp.ones((1, 1, len(keys)), bool)
        if self.start is not None:
            visible &= index >= self.start[:, None, None]
        if self.stop is not None:
            visible &= index < self.stop[:, None, None]
        if self.first_query is not None:
            # A token attends to itself and to those before it.
            query_index = self.first_query + queries
            visible &= index <= query_index[:, None]
        if self.texts is not None:
            first = 0 if self.first_query is None else self.first_query
            text_of_query = self.texts[:, first + queries]  # [B, T]
            text_of_key = self.texts[:, jnp.maximum(index, 0)]  # [B, S]
            visible &= text_of_query[:, :, None] == text_of_key[:, None]
        return visible | (index < 0)

    def after(self, prefix: int) -> "Visibility":
        """Return the same with so many keys before all others."""
        return self._replace(prefix=self.prefix + prefix)
