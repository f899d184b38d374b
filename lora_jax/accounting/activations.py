"""What an encoder keeps from the forward pass for the backward pass, term by term.

The terms of `saved_by_autodiff` follow from the layers in `lora_jax.nn`, and the tests
hold them against jax's own list. Those of `saved_by_xla` were read from the buffers of
steps that XLA's CPU backend compiled.
"""

import re
from collections.abc import Mapping
from typing import Any

from lora_jax.models import bert

FLOAT32 = 4  # bytes


def activation_bytes(
    config: bert.Config,
    trainable: Mapping[str, Any],
    batch: int,
    length: int,
    *,
    looped: bool,
) -> int:
    """Return the bytes of activations when the backward pass is in the block before last.

    Nothing of the last block is left at that moment, and it is computed for one token
    alone anyway. `trainable` has the trainable leaves by path; `looped` says whether
    the blocks are a loop in the compiled program.
    """
    per_token = sum(saved_by_autodiff(config, trainable, length).values())
    if not looped:
        per_token += sum(saved_by_xla(config, trainable, length).values())
    # The largest temporaries: gradients of the activation's output and input.
    temporary = 2 * config.ffn
    kept = (config.layers - 1) * per_token + temporary
    size = FLOAT32 * batch * length * kept
    if looped:
        # Which scores are masked, and their value then: a boolean and a float32 each,
        # the same in every turn of the loop.
        size += (1 + FLOAT32) * batch * config.heads * length**2
    return size


def saved_by_autodiff(
    config: bert.Config, trainable: Mapping[str, Any], length: int
) -> dict[str, int]:
    """Return the float32 numbers a block keeps per token, by what they are.

    The input of a layer is kept where its matrix is trainable or has an adapter. Norms
    and the activation keep their inputs and compute the others anew.
    """
    d, f = config.width, config.ffn
    scores = config.heads * length

    def input_of(layers: str, width: int) -> int:
        return width if _keeps_input(layers, trainable) else 0

    return {
        "query, key, value": 3 * d,
        # Exponentials and weights of all scores; sums, and what divides by them.
        "softmax": 2 * scores + 2 * config.heads,
        "inputs of the norms": 2 * d,
        "input of the activation": f,
        "block's input": input_of("attention/(query|key|value)", d),
        "input of the attention's output": input_of("attention/output", d),
        "input of the MLP": input_of("mlp/up", d),
        "output of the activation": input_of("mlp/down", f),
        "between A and B": _adapter_ranks(trainable),
    }


def _keeps_input(layers: str, trainable: Mapping[str, Any]) -> bool:
    pattern = rf"blocks/{layers}/((base/)?kernel|lora_a)"
    return any(re.fullmatch(pattern, path) for path in trainable)


def _adapter_ranks(trainable: Mapping[str, Any]) -> int:
    """The ranks of all adapters of a block together."""
    ranks = 0
    for path, leaf in trainable.items():
        if path.startswith("blocks/") and path.endswith("/lora_a"):
            ranks += leaf.shape[-1]
    return ranks


def saved_by_xla(
    config: bert.Config, trainable: Mapping[str, Any], length: int
) -> dict[str, int]:
    """Return the float32 numbers per token that XLA keeps beside them, without a loop.

    XLA sees that what the backward pass is to compute anew is the same as what the
    forward pass computed, and keeps that. And it writes out factors that are the same
    for all of a line.
    """
    trained_scales = 0
    for path in trainable:
        if re.fullmatch(r"blocks/\w+_norm/scale", path):
            trained_scales += 1
    # Where an adapter adds to the activation's input, both products are kept instead
    # of their sum, and three parts of the GELU.
    adapted_up = "blocks/mlp/up/lora_a" in trainable
    return {
        "the softmax's divisors": config.heads * length,
        "the norms' centered inputs": 2 * config.width,
        "the norms' factors, where scales are trained": trained_scales * config.width,
        "the activation's parts, with an adapter on its input": (
            4 * config.ffn if adapted_up else 0
        ),
    }
