"""What a block keeps from the forward pass for the backward pass, term by term.

The terms of `saved_by_autodiff` and `saved_products` follow from the layers in
`lora_jax.nn`, and the tests hold them against jax's own list. Those of `saved_by_xla`
were read from the buffers of steps that XLA's CPU backend compiled. They depend on the
version of jax, which `merges_recomputation` tells apart.
"""

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import quant, tree
from lora_jax.models.decoder import Decoder
from lora_jax.nn.chunked_attention import PARTS

FLOAT32 = 4  # bytes
# Blocks may lie in two stacks (`nn.blocks.Stacks`).
BLOCKS = r"blocks/(?:first/|last/)?"


class BlockSizes(NamedTuple):
    """The numbers that the blocks of a model make of one token."""

    layers: int
    width: int  # of the residual stream
    query: int  # of all heads of queries together
    key: int  # of all heads of keys together
    heads: int
    ffn: int
    has_gate: bool  # an MLP of three matrices
    is_centered: bool  # layer norms, else those by the root mean square
    is_decoder: bool  # else an encoder, whose last block is apart
    matrices: int  # numbers of the matrices of one block


def block_sizes(trainable: Any, frozen: Any) -> BlockSizes:
    """Return the sizes of the blocks of a model that was split, arrays or shapes."""
    config = trainable.config
    head_dim = getattr(config, "head_dim", config.width // config.heads)
    kv_heads = getattr(config, "kv_heads", config.heads)
    model = tree.merge(trainable, frozen)
    kernels = tree.find(model, quant.BODY)
    numbers = sum(math.prod(kernel.shape) for kernel in kernels.values())
    norm_biases = [path for path in tree.leaves(model) if path.endswith("norm/bias")]
    return BlockSizes(
        layers=config.layers,
        width=config.width,
        query=config.heads * head_dim,
        key=kv_heads * head_dim,
        heads=config.heads,
        ffn=config.ffn,
        has_gate=any("mlp/gate" in path for path in kernels),
        is_centered=bool(norm_biases),
        is_decoder=isinstance(trainable, Decoder),
        matrices=numbers // config.layers,
    )


def block_kernels(trainable: Any, frozen: Any) -> dict[str, Any]:
    """Return the stacks [L, i, o] of the blocks' own matrices, by path."""
    return tree.find(tree.merge(trainable, frozen), quant.BODY)


def saved_by_autodiff(
    sizes: BlockSizes,
    trainable: Mapping[str, Any],
    *,
    length: int,
    itemsize: int = FLOAT32,
    attention: str = "plain",
) -> dict[str, int]:
    """Return the bytes that a block keeps per token without `remat`, by what they are.

    The input of a layer is kept where its matrix is trainable or has an adapter. Norms
    and the GELU keep their inputs and compute the others anew.

    Args:
        sizes: of the model's blocks.
        trainable: the trainable leaves by path.
        length: of a row, in tokens.
        itemsize: bytes of a number between layers.
        attention: the way it is computed, see `nn.attend.choose`.
    """
    numbers = _numbers_by_layer(sizes, trainable)
    if attention == "cudnn":
        # It keeps what it returns.
        numbers["input of the attention's output"] = sizes.query
    saved = {name: itemsize * count for name, count in numbers.items()}
    saved["softmax"] = _softmax_bytes(sizes.heads, length, itemsize, attention)
    return saved


def _numbers_by_layer(
    sizes: BlockSizes, trainable: Mapping[str, Any]
) -> dict[str, int]:
    d, f = sizes.width, sizes.ffn

    # The inputs of trained layers, of some width; of others, nothing.
    def input_of(layers: str, width: int) -> int:
        return width if _keeps_input(layers, trainable) else 0

    return {
        "query, key, value": sizes.query + 2 * sizes.key,
        "inputs of the norms": 2 * d,
        # Of SiLU: its input, the sigmoid and the sigmoid's derivative. And the two
        # factors of the gate's product.
        "input of the activation": 5 * f if sizes.has_gate else f,
        "input of query, key, value": input_of("attention/(query|key|value)", d),
        "input of the attention's output": input_of("attention/output", sizes.query),
        "input of the MLP": input_of("mlp/(up|gate)", d),
        "output of the activation": input_of("mlp/down", f),
        "between A and B": _adapter_ranks(trainable),
    }


def _softmax_bytes(heads: int, length: int, itemsize: int, attention: str) -> int:
    # Of each score its exponential in float32 and its weight; of each line their sum
    # and what divides by it.
    if attention == "plain":
        return heads * (length * (FLOAT32 + itemsize) + 2 * FLOAT32)
    # cuDNN has the logarithm of the sum. Chunks are computed anew.
    return FLOAT32 * heads if attention == "cudnn" else 0


def _keeps_input(layers: str, trainable: Mapping[str, Any]) -> bool:
    # A trained matrix, or an adapter's A.
    pattern = rf"{BLOCKS}{layers}/((base/)?kernel|lora_a)"
    return any(re.fullmatch(pattern, path) for path in trainable)


def _adapter_ranks(trainable: Mapping[str, Any]) -> int:
    """The ranks of all adapters of a block together."""
    # x @ A has r numbers per token.
    ranks = 0
    for path, leaf in trainable.items():
        if path.startswith("blocks/") and path.endswith("/lora_a"):
            ranks += leaf.shape[-1]
    return ranks


def saved_products(
    sizes: BlockSizes,
    kernels: Mapping[str, Any],
    trainable: Mapping[str, Any],
    *,
    activations: str,
    products: str,
) -> int:
    """Return the numbers that a block keeps per token with `remat` products.

    They are what linear layers return, the one that the backward pass does not need
    apart: a decoder's `down` is only added to the stream. A product of factors in two
    dtypes keeps nothing, since its result is rounded afterwards, and neither does that
    with a dequantized matrix, which has a gradient of its own.

    Args:
        sizes: of the model's blocks.
        kernels: the blocks' own matrices, by path.
        trainable: the trainable leaves by path.
        activations, products: the dtypes of `nn.precision.COMPUTE_DTYPES`.
    """
    needed = dict(kernels)
    if sizes.is_decoder:
        needed = {path: leaf for path, leaf in kernels.items() if "/down/" not in path}
    numbers = 0
    if products == activations:
        for kernel in needed.values():
            if not quant.is_quantized(kernel):
                numbers += kernel.shape[-1]
    # Adapters are all in one dtype.
    for path, leaf in trainable.items():
        if path.endswith("/lora_a") and leaf.dtype == activations:
            adapters = adapted_outputs(needed, trainable) + _adapter_ranks(trainable)
            return numbers + adapters
    return numbers


def adapted_outputs(kernels: Mapping[str, Any], trainable: Mapping[str, Any]) -> int:
    """Return the numbers per token that the layers with adapters return."""
    numbers = 0
    for path, kernel in kernels.items():
        adapter = path.removesuffix("base/kernel") + "lora_a"
        if adapter in trainable:
            numbers += kernel.shape[-1]
    return numbers


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
    sizes: BlockSizes, trainable: Mapping[str, Any], length: int, *, merged: bool
) -> dict[str, int]:
    """Return the bytes per token that XLA keeps beside them on CPU, without a loop.

    It writes out factors that are the same for all of a line. With `merged`, see
    `merges_recomputation`, it also keeps what the backward pass would compute anew. Of
    the gate it keeps less: the sigmoid's derivative is computed of the sigmoid.
    """
    saved = {"the softmax's divisors": FLOAT32 * sizes.heads * length}
    if sizes.has_gate:
        saved["the sigmoid's derivative"] = -FLOAT32 * sizes.ffn
        saved["products of adapters"] = adapter_products(sizes, trainable)
    if not merged:
        return saved
    # Each norm multiplies by its scale, written out for all of a line.
    trained_scales = 0
    for path in trainable:
        if re.fullmatch(r"blocks/\w+_norm/scale", path):
            trained_scales += 1
    scales = trained_scales * sizes.width
    centered = 2 * sizes.width if sizes.is_centered else 0
    return {
        **saved,
        "the norms' centered inputs": FLOAT32 * centered,
        "the norms' factors, where scales are trained": FLOAT32 * scales,
        "the activation's parts": activation_parts(sizes, trainable),
    }


def activation_parts(sizes: BlockSizes, trainable: Mapping[str, Any]) -> int:
    """Return the bytes per token of the parts of the GELU's derivative.

    They are buffers of their own only where an adapter adds to the activation's input:
    its two products instead of their sum, and three parts of the GELU, so four more
    than the input; elsewhere they are fused into what reads them.
    """
    adapted = "blocks/mlp/up/lora_a" in trainable and not sizes.has_gate
    return FLOAT32 * 4 * sizes.ffn if adapted else 0


def adapter_products(sizes: BlockSizes, trainable: Mapping[str, Any]) -> int:
    """Return the bytes per token of what adapters of gate and up return.

    Their sum with what the layer returns is fused into what reads it, so that both are
    kept.
    """
    adapted = 0
    for name in ("gate", "up"):
        adapted += f"blocks/mlp/{name}/lora_a" in trainable
    return FLOAT32 * adapted * sizes.ffn


def chunk_layouts(sizes: BlockSizes) -> int:
    """Return the bytes per token of what chunked attention reads, on CPU without a loop.

    Queries are cut into chunks, and keys and values transposed. Of causal attention
    each part has keys and values of its own, in both orders.
    """
    keys_and_values = 2 * sizes.key
    numbers = sizes.query + keys_and_values
    if sizes.is_decoder:
        # Part n of N reads n / N of the keys.
        earlier = sum(part / PARTS for part in range(1, PARTS))
        numbers += round(2 * earlier * keys_and_values)
    return FLOAT32 * numbers
