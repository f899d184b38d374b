"""Which keys a token attends to, matrices drawn by hand."""

import jax.numpy as jnp

from lora_jax.nn.visibility import Visibility


def drawn(visibility: Visibility, queries: int, keys: int) -> list[str]:
    """A line for each query of all rows: x where it attends to the key."""
    matrix = visibility.matrix(jnp.arange(queries), jnp.arange(keys))
    lines = matrix.reshape(-1, keys)
    return ["".join("x" if seen else "." for seen in line) for line in lines]


def test_all_keys():
    assert drawn(Visibility(), 1, 3) == ["xxx"]


def test_padding_after_the_text_and_before_it():
    after = Visibility(stop=jnp.array([2, 0, 3]))
    assert drawn(after, 1, 3) == ["xx.", "...", "xxx"]
    before = Visibility(start=jnp.array([2, 0]))
    assert drawn(before, 1, 3) == ["..x", "xxx"]


def test_a_causal_token_sees_itself_and_those_before():
    assert drawn(Visibility(first_query=0), 3, 3) == ["x..", "xx.", "xxx"]
    # As in generation: two new tokens behind two others.
    assert drawn(Visibility(first_query=2), 2, 5) == ["xxx..", "xxxx."]


def test_a_prefix_is_seen_by_all_and_moves_the_others():
    stop = Visibility(stop=jnp.array([1])).after(2)
    assert drawn(stop, 1, 5) == ["xxx.."]
    causal = Visibility(first_query=0).after(1).after(1)
    assert drawn(causal, 2, 4) == ["xxx.", "xxxx"]


def test_indices_may_be_some_of_them():
    causal = Visibility(stop=jnp.array([3]), first_query=0)
    matrix = causal.matrix(jnp.array([3, 1]), jnp.array([1, 2, 3]))
    assert matrix.tolist() == [[[True, True, False], [True, False, False]]]
