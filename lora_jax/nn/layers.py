"""The layers models are made of: flax NNX modules used as immutable pytrees.

Shape letters: B batch, T tokens, S keys attended to, D model, H heads, G heads of keys
and values, K numbers of a head, F feed-forward, V vocabulary, L layers, r rank. In a
linear layer i and o are the numbers that go in and come out.

A layer is written for one block. The blocks of a model are one such layer whose leaves
have a leading axis L, and are scanned (`blocks.py`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.nn.dense import dense
from lora_jax.quant import is_quantized

# Every leaf is an `nnx.Param`: a bare array that is set as an attribute under `jit` or
# `vmap` would silently become static and vanish from the tree.


def dropout(
    key: Key[Array, ""] | None,
    rate: float,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return x with a share `rate` of its numbers at 0 and the others scaled up.

    Without a key, as in evaluation, and at rate 0, x is returned as it is.
    """
    if key is None or rate == 0:
        return x
    # A number is kept with the chance 1 - rate, and 1 / (1 - rate) keeps the mean.
    is_kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    scaled = x / (1 - rate)
    return jnp.where(is_kept, scaled, 0).astype(x.dtype)


def fold_key(key: Key[Array, ""] | None, index: Any) -> Key[Array, ""] | None:
    """Return `jax.random.fold_in(key, index)`, or None without a key."""
    if key is None:
        return None
    return jax.random.fold_in(key, index)


class Linear(nnx.Module):
    """y = x kernel + bias, with a kernel [i, o] and perhaps a bias [o]."""

    def __init__(self, kernel: Any, bias: Any = None):
        self.kernel = nnx.Param(kernel)
        # Set once: nnx decides by the first value whether an attribute is data.
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(
        self,
        x: Float[Array, "... i"],
        key: Any = None,
    ) -> Float[Array, "... o"]:
        # The key is for adapters, which are called as the layer they wrap.
        y = dense(x, self.kernel.get_value())
        if self.bias is None:
            return y
        bias = self.bias[...]
        return y + bias.astype(x.dtype)


class Embedding(nnx.Module):
    """Rows of a table [V, D] by their index."""

    def __init__(self, embedding: Any):
        self.embedding = nnx.Param(embedding)

    def __call__(
        self,
        tokens: Int[Array, "..."],
    ) -> Float[Array, "... D"]:
        # Of a quantized table only these rows are dequantized.
        table = self.embedding.get_value()
        if is_quantized(table):
            return table.rows(tokens)
        return table[tokens]


# The norms compute in float32, and keep x alone for the backward pass
# (`jax.checkpoint`): recomputing the statistics is cheaper than reading them back.


class RMSNorm(nnx.Module):
    """x over its root mean square, times a scale [D].

    Zhang and Sennrich 2019 (arXiv 1910.07467). The mean is over the last axis.
    """

    def __init__(self, scale: Any, *, epsilon: float):
        self.scale = nnx.Param(scale)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        normalize = jax.checkpoint(_divide_by_rms, static_argnums=2)
        return normalize(x, self.scale[...], self.epsilon)


def _divide_by_rms(x, scale, epsilon):
    wide = x.astype(jnp.float32)
    mean_square = (wide**2).mean(-1, keepdims=True)
    # epsilon keeps a row of zeros finite.
    unit = wide * jax.lax.rsqrt(mean_square + epsilon)
    return (unit * scale).astype(x.dtype)


class LayerNorm(nnx.Module):
    """x normalized over its last axis, times a scale [D], plus a bias [D]."""

    def __init__(self, scale: Any, bias: Any, *, epsilon: float):
        self.scale = nnx.Param(scale)
        self.bias = nnx.Param(bias)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        normalize = jax.checkpoint(_normalize, static_argnums=3)
        return normalize(
            x,
            self.scale[...],
            self.bias[...],
            self.epsilon,
        )


def _normalize(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    # Not mean(x²) - mean(x)²: of numbers far from 0 that difference is mostly rounding.
    centered = wide - mean
    variance = (centered**2).mean(-1, keepdims=True)
    unit = centered * jax.lax.rsqrt(variance + epsilon)
    return (unit * scale + bias).astype(x.dtype)


@jax.checkpoint
def gelu(x: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """Return the exact GELU, by erf; only x is kept for the backward pass."""
    return jax.nn.gelu(x, approximate=False)


# By the names that Hugging Face's config.json has for them.
ACTIVATIONS = {
    "gelu": gelu,
    "relu": jax.nn.relu,
    "gelu_new": jax.checkpoint(jax.nn.gelu),  # the approximation by tanh
    "silu": jax.nn.silu,
}


class MLP(nnx.Module):
    """Two linear layers with an activation between: down(activation(up(x)))."""

    def __init__(
        self,
        up: Any,
        down: Any,
        *,
        activation: str,
    ):
        self.up = up
        self.down = down
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        key: Any = None,
    ) -> Float[Array, "B T D"]:
        activate = ACTIVATIONS[self.activation]
        hidden = self.up(x, fold_key(key, 0))  # [B, T, F]
        hidden = activate(hidden)
        return self.down(hidden, fold_key(key, 1))
