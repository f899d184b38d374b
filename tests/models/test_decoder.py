"""The cache of a decoder: tokens in pieces are the tokens in one, in every form a model's blocks can have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn.blocks import Stacks
from tests.models import test_gpt2
from tests.models.test_gpt2 import compiled
from tests.models.test_llama import LENGTH, tiny, tokens  # noqa: F401

hidden, extend = compiled(Decoder.hidden), compiled(Decoder.extend)


def forms(model: Decoder) -> dict[str, Decoder]:
    """The same model with its blocks in each form they can have."""
    first, last = (
        jax.tree.map(lambda leaf, some=some: leaf[some], model.blocks)
        for some in (slice(-1), slice(-1, None))
    )
    blocks = {"tuple": tuple(tree.unstack(model.blocks)), "stacks": Stacks(first, last)}
    return {"stack": model} | {
        name: tree.replace(model, {"blocks": each}) for name, each in blocks.items()
    }


class TestCache:
    """Rows padded on the left, in pieces, have the hidden states of rows padded on the right, in one."""

    START = 10 - LENGTH

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
    def test_in_pieces(self, family, form, sizes, tokens):  # noqa: F811
        model = tiny() if family == "llama" else test_gpt2.tiny()
        wanted = hidden(model, tokens, LENGTH)
        left = np.stack(
            [np.roll(row, 10 - n) for row, n in zip(tokens, LENGTH, strict=True)]
        )
        model = forms(model)[form]
        got, cache, at = [], model.cache(3, 12), 0  # two more than are filled
        for size in sizes:
            x, cache = extend(model, left[:, at : at + size], cache, at, self.START)
            got, at = [*got, x], at + size
        for row, n in enumerate(LENGTH):
            np.testing.assert_allclose(
                np.concatenate(got, 1)[row, 10 - n :],
                wanted[row, :n],
                rtol=1e-4,
                atol=1e-5,
                err_msg=f"row {row}",
            )

    def test_a_cache_has_the_shape_of_the_blocks_and_the_heads_of_keys(self):
        shape = (5, 2, 7, 4)  # rows, heads of keys, tokens, numbers of a head
        for form, model in forms(tiny()).items():
            cache = model.cache(5, 7, jnp.bfloat16)
            shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(cache)]
            assert shapes == (
                [(shape, "bfloat16")] * 4
                if form == "tuple"
                else [((2, *shape), "bfloat16")] * 2
            )
