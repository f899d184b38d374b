"""The layers models are made of: flax NNX modules used as immutable pytrees.

Shapes: B batch, T tokens, S keys attended to, D model, H heads, G heads of keys, K head, F feed-forward, V vocabulary, L layers,
r rank.
A layer is written for one block; a model's blocks carry a leading layer axis L and are scanned. Every leaf is an `nnx.Param`: a
bare array attribute set under `jit` or `vmap` would silently become static.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.nn.dense import dense
from lora_jax.quant import Quantized


def dropout(
    key: Key[Array, ""] | None, rate: float, x: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Zero a share `rate` of x and scale the rest up; the identity without a key (evaluation) or at rate 0."""
    if key is None or rate == 0:
        return x
    return jnp.where(
        jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0
    ).astype(x.dtype)


def fold_key(key: Key[Array, ""] | None, index: Any) -> Key[Array, ""] | None:
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


class MLP(nnx.Module):
    """Two linear layers with an activation between them: down(activation(up(x)))."""

    def __init__(self, up: Any, down: Any, *, activation: str):
        self.up, self.down = up, down
        self.activation = activation

    def __call__(
        self, x: Float[Array, "B T D"], *, key: Any = None
    ) -> Float[Array, "B T D"]:
        activate = ACTIVATIONS[self.activation]
        hidden = activate(self.up(x, fold_key(key, 0)))
        return self.down(hidden, fold_key(key, 1))
