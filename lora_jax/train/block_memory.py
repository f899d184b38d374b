"""What a training step has in memory for its blocks, by formula: bytes.

`all_kept` exists from the forward to the backward pass, `one_block` while the backward
pass is in a block, and `copied_matrices` as long as either.
"""

import math

from lora_jax import quant, tree
from lora_jax.nn import precision
from lora_jax.train.kept import (
    FLOAT32,
    activation_parts,
    adapted_outputs,
    adapter_products,
    chunk_layouts,
    merges_recomputation,
    saved_by_autodiff,
    saved_by_xla,
    saved_products,
)
from lora_jax.train.step_shape import StepShape


def all_kept(step: StepShape) -> int:
    """Return what all blocks keep from the forward pass for the backward pass."""
    return step.kept_blocks * step.tokens * _kept(step)


def _kept(step: StepShape) -> int:
    """What a block keeps, in bytes per token."""
    if step.config.remat == "none":
        return sum(_kept_of_all(step).values())
    numbers = step.sizes.width  # the block's input
    if step.config.remat == "products":
        numbers += saved_products(
            step.sizes,
            step.kernels,
            step.trainable,
            activations=step.config.engine.activations,
            products=precision.product_dtype(step.config.compute_dtype),
        )
    return step.kept_bytes * numbers


def _kept_of_all(step: StepShape) -> dict[str, int]:
    """What a block keeps where nothing is computed anew, in bytes per token."""
    saved = _saved(step)
    # A GPU's compiler adds nothing, and neither does a loop.
    if not step.on_cpu or not step.is_unrolled:
        return saved
    by_xla = saved_by_xla(
        step.sizes, step.trainable, step.length, merged=merges_recomputation()
    )
    if step.attention == "chunked":
        by_xla["the softmax's divisors"] = 0
        by_xla["layouts of chunks"] = chunk_layouts(step.sizes)
    by_xla["the activation's parts"] = _kept_parts(step)
    if step.has_narrow_stream and not step.sizes.has_gate:
        # In a loop the result of a product is converted before it is kept.
        saved["input of the activation"] //= 2
    return saved | by_xla


def _saved(step: StepShape) -> dict[str, int]:
    return saved_by_autodiff(
        step.sizes,
        step.trainable,
        length=step.length,
        itemsize=step.kept_bytes,
        attention=step.attention,
    )


def _kept_parts(step: StepShape) -> int:
    """What XLA keeps of a GELU on CPU beside its input, without a loop."""
    if step.has_narrow_stream or not merges_recomputation():
        return 0
    size = FLOAT32 * step.sizes.ffn
    if parts := activation_parts(step.sizes, step.trainable):
        # Beside the loops of chunks the adapter's product alone.
        return size if step.attention == "chunked" else parts
    return 2 * size if step.writes_parts else 0


def one_block(step: StepShape) -> int:
    """Return what exists beside `all_kept` while the backward pass is in a block."""
    # The gradients of the activation's output and input.
    per_token = 2 * step.kept_bytes * step.sizes.ffn
    matrices = 0
    masked = 0
    if not step.is_unrolled and step.attention == "plain":
        # Which scores are masked, and their value then: a boolean and a float32 each,
        # the same in every turn of the loop.
        masked = (1 + FLOAT32) * step.sizes.heads * step.length
    if step.config.remat != "none":
        # And that of the block's output.
        per_token += _computed_anew(step) + step.kept_bytes * step.sizes.width
        # The mask is of attention, the parts are of the MLP.
        masked = max(masked, _computed_parts(step))
        matrices = _cut_matrices(step)
    elif step.is_quantized:
        matrices = _cut_matrices(step)
        per_token += _cut_factors(step)
    elif step.is_unrolled and step.on_cpu and not merges_recomputation():
        # Computed anew, in the one block that the backward pass is in.
        per_token += activation_parts(step.sizes, step.trainable)
    return step.tokens * (per_token + masked) + matrices


def _computed_anew(step: StepShape) -> int:
    """What a block has that is computed anew, in bytes per token."""
    sizes = step.sizes
    saved = _saved(step)
    if step.on_cpu and step.keeps_products:
        # Query, key and value, and what up or up and gate return: of the gate's five.
        del saved["query, key, value"]
        saved["input of the activation"] -= step.kept_bytes * sizes.ffn
        if sizes.has_gate:
            saved["input of the activation"] -= step.kept_bytes * sizes.ffn
    if not step.on_cpu:
        if sizes.has_gate:
            # What gate and up return; the others are fused into what reads them.
            saved["input of the activation"] = 2 * step.kept_bytes * sizes.ffn
        return sum(saved.values())
    if sizes.has_gate:
        saved["products of adapters"] = adapter_products(sizes, step.trainable)
    if step.is_quantized and not step.has_narrow_stream:
        # A dequantized matrix's product is not fused with the sum that it is in.
        outputs = adapted_outputs(step.kernels, step.trainable)
        saved["products of adapters"] = FLOAT32 * outputs
    return sum(saved.values())


def _cut_factors(step: StepShape) -> int:
    """What a block kept and products read, cut out of the stacks; bytes per token."""
    if not step.on_cpu:
        return 0
    factors = _saved(step)
    # Sums and the like read the stacks themselves.
    del factors["inputs of the norms"], factors["input of the activation"]
    return sum(factors.values())


def _computed_parts(step: StepShape) -> int:
    """Parts of a GELU that is computed anew, in bytes per token; a GPU has none."""
    if not step.on_cpu:
        return 0
    size = FLOAT32 * step.sizes.ffn
    if activation_parts(step.sizes, step.trainable):
        if step.has_narrow_stream:
            return 0
        # Three, before they are multiplied; beside a bfloat16 matrix one.
        is_fused = step.is_narrow and not step.is_quantized
        return size if is_fused else 3 * size
    return 3 * size if step.writes_parts else 0


def _cut_matrices(step: StepShape) -> int:
    """The matrices of the one block that is computed, cut out of their stacks."""
    if step.is_quantized:
        # One is dequantized while the one before it is still read.
        layers = step.sizes.layers
        sizes = [math.prod(leaf.shape) // layers for leaf in step.kernels.values()]
        size = step.product_bytes
        if step.on_cpu and step.is_narrow:
            # Before they are rounded, too.
            size += FLOAT32
        return size * sum(sorted(sizes)[-2:])
    return (FLOAT32 if step.on_cpu else step.product_bytes) * step.sizes.matrices


def copied_matrices(step: StepShape) -> int:
    """Return the matrices of all blocks that are laid out or converted for products."""
    sizes = step.sizes
    if step.is_quantized:
        # An encoder's last block is cut off the codes.
        stored = sum(map(tree.nbytes, step.kernels.values()))
        return 0 if sizes.is_decoder else stored * step.kept_blocks // sizes.layers
    numbers = step.kept_blocks * sizes.matrices
    if step.on_cpu and step.is_unrolled:
        # A product that is asked for in bfloat16 is one of float32 on CPU.
        size = FLOAT32 if step.has_narrow_stream else step.product_bytes
        return size * numbers
    if not sizes.is_decoder:
        # Its last block is cut off. XLA's CPU backend converts what is left to float32.
        return (FLOAT32 if step.on_cpu else step.product_bytes) * numbers
    copied = cast_matrices(step)
    if step.on_cpu and step.is_narrow:
        # As they do not change in the loop, they are converted once.
        copied += FLOAT32 * numbers
    return copied


def cast_matrices(step: StepShape) -> int:
    """Return the bytes of trained matrices in the dtype of products, if it is another."""
    numbers = 0
    for path, leaf in step.kernels.items():
        is_trained = path in step.trainable and not quant.is_quantized(leaf)
        if is_trained and leaf.dtype.itemsize > step.product_bytes:
            numbers += math.prod(leaf.shape)
    return step.product_bytes * numbers
