"""The layers models are made of: flax NNX modules used as immutable pytrees.

Shapes: B batch, T tokens, S keys attended to, D model, H heads, G heads of keys, K head, F feed-forward, V vocabulary, L layers,
r rank.
A layer is written for one block; a model's blocks carry a leading layer axis L and are scanned. Every leaf is an `nnx.Param`: a
bare array attribute set under `jit` or `vmap` would silently become static.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.quant import Quantized


def dense(x: Float[Array, "... i"], kernel: Any) -> Float[Array, "... o"]:
    """x @ kernel [i, o] in the dtype of x. The factors are taken in the dtype of the kernel and summed in float32 or wider.

    So a bfloat16 kernel makes a bfloat16 product of float32 activations, forward and backward. A quantised kernel is
    dequantised in either pass and gets no gradient.
    """
    if isinstance(kernel, Quantized):
        return _dequantizing(x, kernel)
    return x @ kernel if kernel.dtype == x.dtype else _mixed(x, kernel)


@jax.custom_vjp
def _dequantizing(x, kernel):
    return dense(x, kernel.dequantize())


def _dequantizing_forward(x, kernel):
    return _dequantizing(
        x, kernel
    ), kernel  # the bits alone are kept: the matrix is made anew for the backward pass


def _dequantizing_backward(kernel, dy):
    return dense(dy, kernel.T.dequantize()), None


_dequantizing.defvjp(_dequantizing_forward, _dequantizing_backward)


@jax.custom_vjp
def _mixed(x, kernel):
    # A float32 result lets XLA's CPU backend use the processor's bfloat16 product, 1.9 times as fast as float32's; asked
    # for a bfloat16 result it converts the factors to float32 instead, as it would in the transpose that autodiff makes.
    return jnp.matmul(
        x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32
    ).astype(x.dtype)


def _mixed_forward(x, kernel):
    # What is kept is what the wanted gradients need: of a frozen kernel's layer nothing but the kernel.
    return _mixed(x.value, kernel.value), (
        x.value if kernel.perturbed else None,
        kernel.value,
    )


def _mixed_backward(kept, dy):
    x, kernel = kept
    dx = _mixed(dy, kernel.T)
    if x is None:
        return dx, None
    rows, of_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dx, _mixed(rows.T, of_rows.astype(kernel.dtype)).astype(kernel.dtype)


_mixed.defvjp(_mixed_forward, _mixed_backward, symbolic_zeros=True)


def in_order(kernel: Float[Array, "i o"]) -> Float[Array, "i o"]:
    """The matrix as it is; a transposed one is moved in memory where that pays.

    With a matrix transposed in name only, XLA's CPU backend takes twice as long for a bfloat16 product, eight times for one of few
    rows. (Slices of a stack it lays out as they are used.) A vector has one order, and the barrier hides where it came from.
    """
    if kernel.dtype != jnp.bfloat16 or jax.default_backend() != "cpu":
        return kernel
    return jax.lax.optimization_barrier(kernel.reshape(-1)).reshape(kernel.shape)


def dropout(
    key: Key[Array, ""] | None, rate: float, x: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Zero a share `rate` of x and scale the rest up; the identity without a key (evaluation) or at rate 0."""
    if key is None or rate == 0:
        return x
    return jnp.where(
        jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0
    ).astype(x.dtype)


def fold(key: Key[Array, ""] | None, index: Any) -> Key[Array, ""] | None:
    """`jax.random.fold_in`, where no key stays no key."""
    return None if key is None else jax.random.fold_in(key, index)


class Linear(nnx.Module):
    """y = x kernel + bias; kernel [i, o]."""

    def __init__(self, kernel: Any, bias: Any = None):
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(
        self, x: Float[Array, "... i"], key: Any = None
    ) -> Float[Array, "... o"]:
        y = dense(x, self.kernel.get_value())
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Embedding(nnx.Module):
    """Rows of a table [V, D] by index."""

    def __init__(self, embedding: Any):
        self.embedding = nnx.Param(embedding)

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        table = self.embedding.get_value()
        return table.rows(tokens) if isinstance(table, Quantized) else table[tokens]


class RMSNorm(nnx.Module):
    """Divided by the root mean square over the last axis, in float32, then scaled (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, scale: Any, *, epsilon: float):
        self.scale = nnx.Param(scale)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return jax.checkpoint(_over_rms, static_argnums=2)(
            x, self.scale[...], self.epsilon
        )


def _over_rms(x, scale, epsilon):
    wide = x.astype(jnp.float32)
    return (
        wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + epsilon) * scale
    ).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalised over the last axis in float32, then scale and bias."""

    def __init__(self, scale: Any, bias: Any, *, epsilon: float):
        self.scale = nnx.Param(scale)
        self.bias = nnx.Param(bias)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        # Only x is kept for the backward pass: recomputing the statistics is cheaper than reading them back.
        return jax.checkpoint(_normalise, static_argnums=3)(
            x, self.scale[...], self.bias[...], self.epsilon
        )


def _normalise(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    unit = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return (unit * scale + bias).astype(x.dtype)


@jax.checkpoint
def gelu(x: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """The exact (erf) GELU, keeping only its input for the backward pass."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {
    "gelu": gelu,
    "relu": jax.nn.relu,
    "gelu_new": jax.checkpoint(jax.nn.gelu),
    "silu": jax.nn.silu,
}


class Stacks(nnx.Module):
    """The layers of a model in two stacks, for a method that treats the last ones otherwise than the first."""

    def __init__(self, first: Any, last: Any):
        self.first, self.last = first, last


def through(
    step: Callable, x: Any, blocks: Any, more: Any = None, *, straight: bool = False
) -> tuple[Any, Any]:
    """x through all layers, by step(x, index, block, more) -> (x, other): the last x, and what each layer gave beside it.

    `blocks` is a stack of layers, two of them (`Stacks`), or a tuple of single layers; `more`, what else each layer is given, has a
    layer axis too, or is a tuple. `straight` compiles a stack as straight code and no loop.
    """
    if isinstance(blocks, tuple):
        given = []
        for index, (block, own) in enumerate(
            zip(blocks, more or (None,) * len(blocks), strict=True)
        ):
            x, other = step(x, index, block, own)
            given.append(other)
        return x, tuple(given)
    start, given = 0, []
    for stack in stacks(blocks):
        count = layers(stack)
        own = jax.tree.map(
            lambda leaf, some=slice(start, start + count): leaf[some], more
        )
        each = jnp.arange(start, start + count), stack, own
        x, other = jax.lax.scan(
            lambda x, layer: step(x, *layer), x, each, unroll=straight
        )
        start += count
        given.append(other)
    return x, jax.tree.map(lambda *leaf: jnp.concatenate(leaf), *given)


def stacks(blocks: Any) -> tuple[Any, ...]:
    """The one stack or the two."""
    return (blocks.first, blocks.last) if isinstance(blocks, Stacks) else (blocks,)


def layers(blocks: Any) -> int:
    """How many layers there are."""
    if isinstance(blocks, tuple):
        return len(blocks)
    return sum(jax.tree.leaves(stack)[0].shape[0] for stack in stacks(blocks))


def without_last(blocks: Any) -> tuple[Any, Any]:
    """All layers but the last, and the last alone."""
    if isinstance(blocks, tuple):
        return blocks[:-1], blocks[-1]
    stack = blocks.last if isinstance(blocks, Stacks) else blocks
    most, last = (
        jax.tree.map(lambda leaf: leaf[:-1], stack),
        jax.tree.map(lambda leaf: leaf[-1], stack),
    )
    return (Stacks(blocks.first, most) if isinstance(blocks, Stacks) else most), last
