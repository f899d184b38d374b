"""What an encoder keeps from the forward pass for the backward pass, term by term.

The terms of `saved_by_autodiff` follow from the layers in `lora_jax.nn`, and the tests
hold them against jax's own list. Those of `saved_by_xla` were read from the buffers of
steps that XLA's CPU backend compiled. They depend on the version of jax, which
`merges_recomputation` tells apart.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

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
    merged = merges_recomputation()
    per_token = sum(saved_by_autodiff(config, trainable, length).values())
    # The largest temporaries: gradients of the activation's output and input.
    temporary = 2 * config.ffn
    if not looped:
        by_xla = saved_by_xla(config, trainable, length, merged=merged)
        per_token += sum(by_xla.values())
    if not looped and not merged:
        # Computed anew, in the one block that the backward pass is in.
        temporary += activation_parts(config, trainable)
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

    # The inputs of trained layers, of some width; of others, nothing.
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
    # A trained matrix, or an adapter's A.
    pattern = rf"blocks/{layers}/((base/)?kernel|lora_a)"
    return any(re.fullmatch(pattern, path) for path in trainable)


def _adapter_ranks(trainable: Mapping[str, Any]) -> int:
    """The ranks of all adapters of a block together."""
    # x @ A has r numbers per token.
    ranks = 0
    for path, leaf in trainable.items():
        if path.startswith("blocks/") and path.endswith("/lora_a"):
            ranks += leaf.shape[-1]
    return ranks


@cache
def merges_recomputation() -> bool:
    """Return whether XLA keeps what the backward pass is to compute anew.

    It does so in blocks that are not a loop, with a jax that makes the body of an
    unrolled scan a function and calls it for every layer (0.10). The barriers that keep
    the recomputation apart from the forward pass are in that function, and XLA merges
    the two. A later jax (0.12) writes the body out for every layer, and the barriers
    hold. The same XLA does either, given either program.
    """

    def step(x: Any, _: None) -> tuple[Any, None]:
        return jnp.sin(x), None

    def unrolled(x: Any) -> Any:
        return jax.lax.scan(step, x, None, length=2, unroll=2)[0]

    # Lowered and not compiled: milliseconds.
    program = jax.jit(unrolled).lower(jax.ShapeDtypeStruct((), "float32"))
    return "call @" in program.as_text()


def saved_by_xla(
    config: bert.Config, trainable: Mapping[str, Any], length: int, *, merged: bool
) -> dict[str, int]:
    """Return the float32 numbers per token that XLA keeps beside them, without a loop.

    It writes out factors that are the same for all of a line. With `merged`, see
    `merges_recomputation`, it also keeps what the backward pass would compute anew.
    """
    saved = {"the softmax's divisors": config.heads * length}
    if not merged:
        return saved
    # Each norm multiplies by its scale, written out for all of a line.
    trained_scales = 0
    for path in trainable:
        if re.fullmatch(r"blocks/\w+_norm/scale", path):
            trained_scales += 1
    return {
        **saved,
        "the norms' centered inputs": 2 * config.width,
        "the norms' factors, where scales are trained": trained_scales * config.width,
        "the activation's parts": activation_parts(config, trainable),
    }


def activation_parts(config: bert.Config, trainable: Mapping[str, Any]) -> int:
    """Return the float32 numbers per token of the parts of the GELU's derivative.

    They are buffers of their own only where an adapter adds to the activation's input:
    its two products instead of their sum, and three parts of the GELU, so four more
    than the input; elsewhere they are fused into what reads them.
    """
    adapted = "blocks/mlp/up/lora_a" in trainable
    return 4 * config.ffn if adapted else 0
