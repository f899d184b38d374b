"""Adapter layers, the baselines of LoRA's Tables 2 to 4 and 13 to 15: a bottleneck after a layer, y + up(act(down(y))).

Adapter^H: Houlsby et al. 2019 (arXiv 1902.00751). Adapter^L: Lin et al. 2020 (arXiv 2004.03829). Here `up` starts at zero, so that
training starts at the pretrained model, as LoRA's does; theirs starts near it. Not linear, so nothing can be merged.
"""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lora_jax import tree
from lora_jax.methods import base
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import ACTIVATIONS, LayerNorm


class Affine(nnx.Module):
    """x matrix + bias. Its matrix is no `kernel`: those are the pretrained body's, quantised and taken in bfloat16 by that name."""

    def __init__(self, matrix: Any, bias: Any):
        self.matrix, self.bias = nnx.Param(matrix), nnx.Param(bias)

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        return dense(x, self.matrix[...]) + self.bias[...].astype(x.dtype)


class Adapter(nnx.Module):
    """A layer with a bottleneck after it, which reads the layer's output as it is or normalised."""

    def __init__(
        self,
        layer: Any,
        down: Affine,
        up: Affine,
        norm: LayerNorm | None,
        *,
        activation: str,
    ):
        self.base = layer
        self.adapter_down, self.adapter_up, self.adapter_norm = down, up, norm
        self.activation = activation

    def __call__(
        self, x: Float[Array, "... i"], key: Any = None
    ) -> Float[Array, "... o"]:
        y = self.base(x)
        seen = y if self.adapter_norm is None else self.adapter_norm(y)
        return y + self.adapter_up(
            ACTIVATIONS[self.activation](self.adapter_down(seen))
        )

    def parameters(self) -> int:
        """Learning parameters: 2 d r + r + d for each layer, and 2 d of a norm."""
        return sum(
            leaf.size
            for path, leaf in tree.leaves(self).items()
            if not path.startswith("base/")
        )


def adapter_h(bottleneck: int = 8) -> base.Method:
    """Adapter^H: after the attention's output and after the MLP, before the residual sum.

    Its activation is SiLU, as in LoRA's code (Houlsby's own: GELU). The pretrained LayerNorms stay frozen: LoRA's counts have none
    (section 5.1), though Houlsby's learn. The pretrained model's own dropout comes after it, not before.

    Raises:
        ValueError: `bottleneck`, the paper's r, is no integer >= 1; from `adapt`: the model has not these layers.
    """
    return _method(
        "adapter_h", "attention/output,mlp/down", bottleneck, "silu", norm=False
    )


def adapter_l(bottleneck: int = 8) -> base.Method:
    """Adapter^L: after the MLP alone, with a LayerNorm of its own before a ReLU bottleneck.

    Raises:
        ValueError: as `adapter_h`.
    """
    return _method("adapter_l", "mlp/down", bottleneck, "relu", norm=True)


def _method(
    name: str, places: str, bottleneck: int, activation: str, *, norm: bool
) -> base.Method:
    if not (isinstance(bottleneck, Integral) and bottleneck >= 1):
        raise ValueError(f"bottleneck: expected an integer >= 1, got {bottleneck}")

    def layer(key, wrapped):
        *stack, _, d = wrapped.kernel.shape
        down = (
            jax.random.normal(key, (*stack, d, bottleneck)) * (3 * d) ** -0.5
        )  # as LoRA's A
        return Adapter(
            wrapped,
            Affine(down, jnp.zeros((*stack, bottleneck))),
            Affine(jnp.zeros((*stack, bottleneck, d)), jnp.zeros((*stack, d))),
            LayerNorm(jnp.ones((*stack, d)), jnp.zeros((*stack, d)), epsilon=1e-5)
            if norm
            else None,
            activation=activation,
        )

    def adapt(key, model):
        chosen = base.targets(model, places, setting=name)
        return tree.replace(
            model,
            {path: layer(base.key_of(key, path), one) for path, one in chosen.items()},
        )

    return base.Method(name, adapt, r"(^|/)adapter_\w+/")
