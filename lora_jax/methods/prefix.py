"""Prefix-layer tuning: learnt activations in front of the text at every layer, a baseline of LoRA's Tables 3, 4 and 13 to 15.

Hu et al. 2021 (arXiv 2106.09685), section 5.1; after Li and Liang 2021 (arXiv 2101.00190).
"""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lora_jax import tree
from lora_jax.methods import base
from lora_jax.nn.attention import Attention, heads_first

PATH = "blocks/attention"


class PrefixLayer(nnx.Module):
    """Attention with `prefix` [P, D] in front of what it reads: all tokens attend to the keys and values made of it."""

    def __init__(self, layer: Attention, prefix: Any):
        self.base = layer
        self.prefix = nnx.Param(prefix)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        y: Float[Array, "B S D"],
        place,
        cache=None,
        *,
        rate=0.0,
        key=None,
    ):
        """As `Attention`. The prefix's keys and values are computed anew in each call; the cache holds the text's alone."""

        def heads(layer):
            one = heads_first(
                layer(self.prefix[...].astype(y.dtype)[None]), self.base.kv_heads
            )
            return jnp.broadcast_to(one, (y.shape[0], *one.shape[1:]))

        before = heads(self.base.key), heads(self.base.value)
        return self.base(x, y, place, cache, prefix=before, rate=rate, key=key)

    def parameters(self) -> int:
        """Learning parameters: P d for each layer."""
        return self.prefix.size


def prefix(prefix_length: int = 10) -> base.Method:
    """`prefix_length` activations at every layer: L d l_p parameters. There is no infix: the paper's l_i is 0.

    They are what attention reads: after the norm, where a block begins with one. They have no positions, so those of the text
    stay what they were, and rotary embedding does not turn their keys. Unlike other methods this one cannot start at the pretrained
    model: it starts at the model with that many random tokens in front. From random numbers it learns less, as Li and Liang found:
    MiniLM on 1,000 rows of rotten-tomatoes (three epochs at a rate of 0.01, seed 0) scored 67 % on test from words (ids 1,000 to
    28,000), and 60, 64 and 54 % from N(0, 0.02²), N(0, 0.3²) and N(0, 1). Their reparametrising MLP is left out.

    Raises:
        ValueError: `prefix_length` is no integer >= 1; from `adapt`: it is more than the model has positions, or `blocks/attention`
            is none of this library's.
    """
    if not (isinstance(prefix_length, Integral) and prefix_length >= 1):
        raise ValueError(
            f"prefix_length: expected an integer >= 1, got {prefix_length}"
        )

    def adapt(key, model):
        attention = tree.nodes(model).get(PATH)
        if not isinstance(attention, Attention):
            got = "none" if attention is None else type(attention).__name__
            raise ValueError(
                f"prefix: expected a model whose {PATH} is this library's Attention, got {got}"
            )
        if prefix_length > (most := model.config.max_positions):
            raise ValueError(
                f"prefix_length: expected at most {most}, the model's positions, got {prefix_length}"
            )
        tokens = jax.random.randint(
            base.key_of(key, PATH), (1, int(prefix_length)), 0, model.config.vocabulary
        )
        return tree.replace(
            model,
            {PATH: PrefixLayer(attention, read_by_attention(model, tokens)[:, 0])},
        )

    return base.Method("prefix", adapt, r"(^|/)prefix$")


class _Overheard(nnx.Module):
    """Attention that says what it reads."""

    def __init__(self, layer: Attention, say: Any):
        self.base, self.say = layer, say

    def __call__(self, x, y, *rest, **more):
        self.say(y)
        return self.base(x, y, *rest, **more)


@jax.jit
def read_by_attention(model: Any, tokens: Int[Array, "B T"]) -> Float[Array, "L B T D"]:
    """What the attention of each layer reads of these tokens."""
    read = []
    blocks = (
        tree.replace(one, {"attention": _Overheard(one.attention, read.append)})
        for one in tree.unstack(model.blocks)
    )
    tree.replace(model, {"blocks": tuple(blocks)}).hidden(tokens)
    return jnp.stack(read)
