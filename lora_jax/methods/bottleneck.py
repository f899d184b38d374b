"""Bottleneck adapters: y + up(activation(down(y))) after a layer's output y.

They are baselines of LoRA's Tables 2 to 4 and 13 to 15. Adapter^H is by Houlsby et al.
2019 (arXiv 1902.00751), Adapter^L by Lin et al. 2020 (arXiv 2004.03829). Here `up` starts
at zero, so that training starts at the pretrained model, as LoRA's does; theirs starts
near it. They are not linear, so they cannot be merged.
"""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from lora_jax import tree
from lora_jax.methods import base
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import ACTIVATIONS, LayerNorm


class Affine(nnx.Module):
    """x matrix + bias.

    The matrix is not called `kernel`, because leaves of that name belong to the
    pretrained body: they are quantized, and cast to the compute dtype.
    """

    def __init__(self, matrix: Any, bias: Any):
        self.matrix = nnx.Param(matrix)
        self.bias = nnx.Param(bias)

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        bias = self.bias[...].astype(x.dtype)
        return dense(x, self.matrix[...]) + bias


class BottleneckAdapter(nnx.Module):
    """A layer with a bottleneck after it.

    The bottleneck reads the layer's output as it is or, with a norm, normalized.
    """

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
        self.adapter_down = down
        self.adapter_up = up
        self.adapter_norm = norm
        self.activation = activation

    def __call__(
        self, x: Float[Array, "... i"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "... o"]:
        y = self.base(x)
        bottleneck_input = y
        if self.adapter_norm is not None:
            bottleneck_input = self.adapter_norm(y)
        activate = ACTIVATIONS[self.activation]
        # [..., r]
        hidden = activate(self.adapter_down(bottleneck_input))
        return y + self.adapter_up(hidden)

    def parameters(self) -> int:
        """Return the trainable parameters: 2 d r + r + d a layer, and 2 d of a norm."""
        # Whatever the adapter stores is trained.
        count = 0
        for path, leaf in tree.leaves(self).items():
            # What is wrapped stays frozen.
            if not path.startswith("base/"):
                count += leaf.size
        return count


def adapter_h(bottleneck: int = 8) -> base.Method:
    """Return Adapter^H: after the attention's output and after the MLP.

    Both are added before the residual sum. The activation is SiLU, as in LoRA's code;
    Houlsby's is GELU. The pretrained LayerNorms stay frozen, though Houlsby trains them:
    LoRA's counts do not have them (section 5.1). The pretrained model's own dropout comes
    after the adapter, not before.

    Args:
        bottleneck: Width of the bottleneck, the paper's r.

    Raises:
        ValueError: `bottleneck` is no integer of 1 or more; from `adapt`: the model does
            not have these layers.
    """
    # Both layers end in the residual sum.
    return _method(
        "adapter_h", "attention/output,mlp/down", bottleneck, "silu", with_norm=False
    )


def adapter_l(bottleneck: int = 8) -> base.Method:
    """Return Adapter^L: after the MLP alone, with a LayerNorm of its own and a ReLU.

    Args:
        bottleneck: Width of the bottleneck, the paper's r.

    Raises:
        ValueError: `bottleneck` is no integer of 1 or more; from `adapt`: the model does
            not have these layers.
    """
    # LayerNorm's own scale and bias are trained too.
    return _method("adapter_l", "mlp/down", bottleneck, "relu", with_norm=True)


def _method(
    name: str, places: str, bottleneck: int, activation: str, *, with_norm: bool
) -> base.Method:
    if not (isinstance(bottleneck, Integral) and bottleneck >= 1):
        raise ValueError(f"bottleneck: expected an integer >= 1, got {bottleneck}")

    def adapt(key, model):
        # A stack of layers gets a stack of adapters, which is one entry here.
        wrapped_layers = {}
        for path, layer in base.targets(model, places, setting=name).items():
            # By path, so that Adapter^H and Adapter^L start alike where both are.
            layer_key = base.path_key(key, path)
            wrapped_layers[path] = _wrapped(
                layer_key, layer, int(bottleneck), activation, with_norm=with_norm
            )
        return tree.replace(model, wrapped_layers)

    # `adapter_down`, `adapter_up` and `adapter_norm`.
    return base.Method(name, adapt, trainable=r"(^|/)adapter_\w+/")


def _wrapped(
    key: Key[Array, ""],
    layer: Any,
    bottleneck: int,
    activation: str,
    *,
    with_norm: bool,
) -> BottleneckAdapter:
    """Return the layer, or stack of layers, with a bottleneck at its initial value."""
    # `stack` is empty, or the number of layers.
    *stack, _, d = layer.kernel.shape
    # `down` is drawn as LoRA's A is, and `up` is zero as its B.
    deviation = (3 * d) ** -0.5
    down_matrix = jax.random.normal(key, (*stack, d, bottleneck)) * deviation
    down = Affine(down_matrix, jnp.zeros((*stack, bottleneck)))
    up = Affine(jnp.zeros((*stack, bottleneck, d)), jnp.zeros((*stack, d)))
    norm = None
    if with_norm:
        # The identity but for normalizing.
        scale = jnp.ones((*stack, d))
        norm = LayerNorm(scale, jnp.zeros((*stack, d)), epsilon=1e-5)
    return BottleneckAdapter(layer, down, up, norm, activation=activation)
