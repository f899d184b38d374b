"""What a block keeps for its backward pass: by hand, and against jax's own list."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.ad_checkpoint import saved_residuals

from lora_jax import methods, tree
from lora_jax.accounting.activations import saved_by_autodiff, saved_by_xla
from tests.accounting.encoders import METHODS, encoder_config, split_encoder

SMALL = {"width": 16, "heads": 2, "ffn": 32}


def small_leaves(method):
    """The trainable leaves of a small encoder, by path."""
    trainable, _ = split_encoder(method, **SMALL)
    return tree.leaves(trainable)


class TestByHand:
    SOFTMAX = 2 * 2 * 8 + 2 * 2  # two of each score, two of each head

    def test_of_lora_on_query_and_value(self):
        leaves = small_leaves(methods.lora("query,value", 3))
        saved = saved_by_autodiff(encoder_config(**SMALL), leaves, length=8)
        assert saved == {
            "query, key, value": 3 * 16,
            "softmax": self.SOFTMAX,
            "inputs of the norms": 2 * 16,
            "input of the activation": 32,
            "block's input": 16,
            "input of the attention's output": 0,
            "input of the MLP": 0,
            "output of the activation": 0,
            "between A and B": 2 * 3,
        }
        by_xla = saved_by_xla(encoder_config(**SMALL), leaves, length=8)
        assert list(by_xla.values()) == [2 * 8, 2 * 16, 0, 0]

    def test_of_full_fine_tuning(self):
        leaves = small_leaves(methods.full())
        saved = saved_by_autodiff(encoder_config(**SMALL), leaves, length=8)
        assert saved == {
            "query, key, value": 3 * 16,
            "softmax": self.SOFTMAX,
            "inputs of the norms": 2 * 16,
            "input of the activation": 32,
            "block's input": 16,
            "input of the attention's output": 16,
            "input of the MLP": 16,
            "output of the activation": 32,
            "between A and B": 0,
        }
        by_xla = saved_by_xla(encoder_config(**SMALL), leaves, length=8)
        assert list(by_xla.values()) == [2 * 8, 2 * 16, 2 * 16, 0]


@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_jax_says_a_block_keeps(name):
    # No size of the model, so that they tell activations from weights.
    rows, length = 3, 7

    def first_block(leaves: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), leaves.blocks)

    split = split_encoder(METHODS[name])
    trainable, frozen = first_block(split[0]), first_block(split[1])
    mask = jnp.ones((rows, 1, length), bool)

    def block(trainable, x):
        return tree.merge(trainable, frozen)(x, mask)

    residuals: Any = saved_residuals(block, trainable, jnp.zeros((rows, length, 64)))
    measured = 0
    for aval, _ in residuals:
        if aval.shape[:1] == (rows,):
            measured += aval.size * aval.dtype.itemsize
    leaves = tree.leaves(split[0])
    per_token = sum(saved_by_autodiff(encoder_config(), leaves, length).values())
    # Once, not in every block: a boolean and a float32 for each score.
    masked = 5 * rows * 4 * length**2
    assert measured == 4 * rows * length * per_token + masked
