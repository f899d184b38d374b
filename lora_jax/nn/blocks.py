"""A model's layers in two stacks, the last ones apart, and in one stack again."""

from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import tree
from lora_jax.nn.layers import Stacks


def divided(model: Any, last: int) -> Any:
    """The model with its last layers in a stack of their own: paths `blocks/first/...` and `blocks/last/...`."""
    first, rest = (
        jax.tree.map(lambda leaf, some=some: leaf[some], model.blocks)
        for some in (slice(-last), slice(-last, None))
    )
    return tree.replace(model, {"blocks": Stacks(first, rest)})


def joined(model: Any) -> Any:
    """The model with its layers in one stack, if they are in two that are stored alike: not if one alone is quantised."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, Stacks) or jax.tree.structure(
        blocks.first
    ) != jax.tree.structure(blocks.last):
        return model
    return tree.replace(
        model,
        {
            "blocks": jax.tree.map(
                lambda *leaf: jnp.concatenate(leaf), blocks.first, blocks.last
            )
        },
    )
