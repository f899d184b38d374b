"""What a block keeps for its backward pass: by hand, and against jax's own list."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.ad_checkpoint import saved_residuals

from lora_jax import methods, tree
from lora_jax.accounting import activations
from lora_jax.accounting.activations import saved_by_autodiff, saved_by_xla
from lora_jax.nn.attention import AttentionContext
from lora_jax.nn.visibility import Visibility
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


class TestXla:
    @pytest.mark.parametrize(
        ("method", "merged"),
        [
            (methods.lora("query,value", 3), [2 * 8, 2 * 16, 0, 0]),
            (methods.lora("up", 3), [2 * 8, 2 * 16, 0, 4 * 32]),
            (methods.full(), [2 * 8, 2 * 16, 2 * 16, 0]),
        ],
        ids=["attention", "up", "full"],
    )
    def test_by_hand(self, method, merged):
        leaves = small_leaves(method)
        config = encoder_config(**SMALL)
        saved = saved_by_xla(config, leaves, 8, merged=True)
        assert list(saved.values()) == merged
        saved = saved_by_xla(config, leaves, 8, merged=False)
        assert saved == {"the softmax's divisors": 2 * 8}

    def test_recomputed_parts_exist_once(self, monkeypatch):
        leaves = small_leaves(methods.lora("up", 3))
        config = encoder_config(layers=3, **SMALL)

        def size(merged):
            monkeypatch.setattr(activations, "merges_recomputation", lambda: merged)
            return activations.activation_bytes(config, leaves, 1, 8, looped=False)

        # The norms' inputs are kept in two blocks, the activation's parts in two or one.
        norms, parts = 2 * 16, 4 * 32
        assert size(True) - size(False) == 4 * 8 * (2 * norms + 2 * parts - parts)

    def test_the_compiler_keeps_as_much_as_the_program_of_this_jax_lets_it(self):
        """Two layers of a checkpointed GELU, beside the same layers written out."""

        @jax.checkpoint
        def gelu(x):
            return 0.5 * x * jax.scipy.special.erfc(-0.7 * x)

        def layer(x, w):
            return gelu(x @ w) @ w

        def scanned(w, x):
            def step(x, _):
                return layer(x, w), None

            x = jax.lax.scan(step, x, None, length=4, unroll=4)[0]
            return (x**2).sum()

        def written_out(w, x):
            for _ in range(4):
                x = layer(x, w)
            return (x**2).sum()

        def temporary(loss):
            shapes = [
                jax.ShapeDtypeStruct(s, "float32") for s in ((512, 512), (2048, 512))
            ]
            compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        keeps_more = temporary(scanned) > temporary(written_out)
        assert activations.merges_recomputation() == keeps_more


@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_jax_says_a_block_keeps(name):
    # No size of the model, so that they tell activations from weights.
    rows, length = 3, 7

    def first_block(leaves: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), leaves.blocks)

    split = split_encoder(METHODS[name])
    trainable, frozen = first_block(split[0]), first_block(split[1])
    context = AttentionContext(Visibility(stop=jnp.full(rows, length)))

    def block(trainable, x):
        return tree.merge(trainable, frozen)(x, context)

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
