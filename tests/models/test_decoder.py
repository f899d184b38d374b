"""What all decoders do: causal attention, padding, dropout, and the cache."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn.blocks import Stacks
from tests.models.small_decoders import (
    FULL,
    LENGTH,
    error,
    logits,
    small_gpt2,
    small_llama,
    token_rows,
)

FAMILIES = {"gpt2": small_gpt2, "llama": small_llama}
hidden = jax.jit(Decoder.hidden)
extend = jax.jit(Decoder.extend)


def forms(model: Decoder) -> dict[str, Decoder]:
    """The same model with its blocks in each form they can have."""
    blocks = model.blocks
    first = jax.tree.map(lambda leaf: leaf[:-1], blocks)
    last = jax.tree.map(lambda leaf: leaf[-1:], blocks)
    stacks = Stacks(first, last)
    single = tuple(tree.unstack(blocks))
    return {
        "stack": model,
        "stacks": tree.replace(model, {"blocks": stacks}),
        "tuple": tree.replace(model, {"blocks": single}),
    }


@pytest.mark.parametrize("family", FAMILIES)
class TestRows:
    def test_a_later_token_changes_no_earlier_logit(self, family):
        model = FAMILIES[family]()
        tokens = token_rows()
        other = tokens.copy()
        other[:, 6] = (other[:, 6] + 1) % 50

        before = logits(model, tokens, FULL)
        after = logits(model, other, FULL)
        np.testing.assert_array_equal(before[:, :6], after[:, :6])
        changes = np.abs(before - after)
        changes = changes[:, 6:].max(axis=-1)
        assert (changes > 1e-3).all()

    def test_padding_is_seen_by_no_token(self, family):
        model = FAMILIES[family]()
        tokens = token_rows()
        # The first token of the padding changes; no other may, of the padding neither.
        is_changed = np.zeros((3, 10), bool)
        is_changed[0, 4] = True
        is_changed[2, 1] = True
        other = (tokens + is_changed) % 50

        before = logits(model, tokens, LENGTH)
        after = logits(model, other, LENGTH)
        np.testing.assert_array_equal(before[~is_changed], after[~is_changed])
        changes = np.abs(before - after)
        assert changes[is_changed].max() > 1e-3

        # If that token were real, later ones would see it.
        before = logits(model, tokens, FULL)
        after = logits(model, other, FULL)
        changes = np.abs(before - after)
        assert changes[0, 5:].max() > 1e-3

    def test_rows_longer_than_the_positions_are_rejected(self, family):
        model = FAMILIES[family]()
        rows = np.ones((1, 25), np.int32)
        message = "expected rows of at most 24 tokens, the model's positions; got 25"
        with pytest.raises(ValueError, match=message):
            model(rows)


class TestLogits:
    def test_a_row_alone_is_the_row_in_a_batch(self):
        tokens = token_rows()
        model = small_gpt2()
        alone = logits(model, tokens[:1, :4])
        together = logits(model, tokens, LENGTH)
        np.testing.assert_allclose(alone, together[:1, :4], rtol=1e-5, atol=1e-5)

    def test_dropout_needs_a_key_and_follows_it(self):
        rows = small_gpt2(), token_rows(), FULL
        plain = logits(*rows)
        without_key = logits(*rows, rate=0.3)
        np.testing.assert_allclose(without_key, plain, rtol=1e-5, atol=1e-5)

        key = jax.random.key(0)
        other_key = jax.random.key(1)
        first = logits(*rows, rate=0.3, key=key)
        again = logits(*rows, rate=0.3, key=key)
        other = logits(*rows, rate=0.3, key=other_key)
        np.testing.assert_array_equal(first, again)
        # The one-sided bounds say that something was dropped, and not the same.
        changes = np.abs(first - other)
        assert changes.max() > 1e-3
        changes = np.abs(first - plain)
        assert changes.max() > 1e-3

    def test_are_float32_of_a_bfloat16_model_too(self):
        model = small_gpt2()
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model)
        tokens = token_rows()
        actual = logits(half, tokens, FULL)
        expected = logits(model, tokens, FULL)
        assert actual.dtype == jnp.float32
        assert 1e-4 < error(actual, expected) < 0.1


def in_pieces(
    model: Decoder,
    rows: np.ndarray,
    start: Any,
    sizes: list[int],
) -> Any:
    """The hidden states of rows that are read in pieces of these sizes."""
    pieces = []
    index = 0
    cache = model.cache(len(rows), 12)  # two more than are filled
    for size in sizes:
        stop = index + size
        piece = rows[:, index:stop]
        states, cache = extend(model, piece, cache, index, start)
        pieces.append(states)
        index = stop
    return np.concatenate(pieces, axis=1)


class TestCache:
    @pytest.mark.parametrize(
        "family, form",
        [
            ("llama", "stack"),
            ("llama", "tuple"),
            ("llama", "stacks"),
            ("gpt2", "stack"),
        ],
    )
    @pytest.mark.parametrize("sizes", [[10], [8, 1, 1]])
    def test_in_pieces(self, family, form, sizes):
        """Rows padded on the left, in pieces, are rows padded on the right, in one."""
        model = FAMILIES[family]()
        tokens = token_rows()
        expected = hidden(model, tokens, LENGTH)

        start = 10 - LENGTH
        left = np.zeros_like(tokens)
        for row in range(3):
            left[row] = np.roll(tokens[row], start[row])
        model = forms(model)[form]
        actual = in_pieces(model, left, start, sizes)
        for row, length in enumerate(LENGTH):
            first = start[row]
            np.testing.assert_allclose(
                actual[row, first:],
                expected[row, :length],
                rtol=1e-4,
                atol=1e-5,
                err_msg=f"row {row}",
            )

    @pytest.mark.parametrize("form", ["stack", "stacks", "tuple"])
    def test_has_the_shape_of_the_blocks_and_the_heads_of_keys(self, form):
        model = forms(small_llama())[form]
        cache = model.cache(5, 7, jnp.bfloat16)
        # Rows, heads of keys, tokens, numbers of a head.
        shape = (5, 2, 7, 4)
        count = 4  # keys and values of two layers
        if form != "tuple":
            shape = (2, *shape)
            count = 2
        leaves = jax.tree.leaves(cache)
        assert len(leaves) == count
        for leaf in leaves:
            assert leaf.shape == shape
            assert leaf.dtype == jnp.bfloat16
