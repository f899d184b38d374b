"""The operations of a traced program's matrix products.

A product of [n, k] and [k, m] is 2 n k m operations. Norms, softmax, activations and
the optimizer are left out: they are no products, and a small part.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core

from lora_jax import tree
from lora_jax.models.decoder import Decoder

# cuDNN's attention is one operation, of so many products of [T, S] by a head's numbers:
# scores and their mean of values, and in the backward pass the gradients of both sides.
_ATTENTION = {
    "dot_product_attention_fwd_wrapper": 2,
    "dot_product_attention_bwd_wrapper": 4,
}


def product_operations(jaxpr: Any, *, loops: int) -> int:
    """Return the operations of all products of a program, over all devices.

    `loops` is how often a loop runs whose length is data. Of a choice the branch with
    the most operations counts.
    """
    # Both kinds of jaxprs have equations, one of them below an attribute.
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product(equation)
            continue
        if name in _ATTENTION:
            total += _ATTENTION[name] * _attention_product(equation)
            continue
        inner = [product_operations(item, loops=loops) for item in _jaxprs(equation)]
        if name == "scan":
            total += equation.params["length"] * sum(inner)
        elif name == "while":
            total += loops * sum(inner)
        elif name == "cond":
            total += max(inner, default=0)
        else:
            total += sum(inner)
    return total


def adapted_operations(model: Any, tokens: int) -> int:
    """Return the 4 N operations of each token, as papers count a step of LoRA.

    N are the elements of the matrices that a token is multiplied with: those of the
    blocks, and of a language model's head. It is 2 N in the forward pass, and 2 N for the
    gradient by the inputs; what is computed anew, attention and the adapters are left
    out. Leaves may be shapes.
    """
    leaves = tree.leaves(model)
    elements = 0
    for path, leaf in leaves.items():
        if path.startswith(("blocks/", "lm_head/")) and path.endswith("kernel"):
            elements += leaf.size
    # A tied head is the embedding.
    if isinstance(model, Decoder) and model.lm_head is None:
        elements += leaves["embed/tokens/embedding"].size
    return 4 * elements * tokens


def _attention_product(equation: Any) -> int:
    """Return the operations of all queries by all keys, as elsewhere.

    A kernel need not compute the half that a causal mask hides.
    """
    rows, tokens, heads, size = equation.invars[0].aval.shape  # [B, T, H, K]
    keys = equation.invars[1].aval.shape[1]  # of [B, S, G, K]
    return 2 * rows * heads * tokens * keys * size


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    summed = math.prod(left[axis] for axis in contracted)
    # A multiplication and an addition for each.
    return 2 * summed * math.prod(equation.outvars[0].aval.shape)


def _jaxprs(equation: Any) -> Iterator[Any]:
    """Yield the programs within an equation, the derivatives of its own apart."""
    for value in equation.params.values():
        values = value if isinstance(value, list | tuple) else (value,)
        for item in values:
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item
