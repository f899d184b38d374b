"""The one matrix product that every layer computes: `dense(x, kernel)`.

It hides three things from the layers: a kernel may be quantized, it may have another
dtype than the activations, and a frozen kernel gets no gradient. The last two have
gradients of their own here, because those that automatic differentiation derives are
slower or keep more memory. Shape letters are those of `layers.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lora_jax.devices import MODEL
from lora_jax.quant import Quantized


def dense(
    x: Float[Array, "... i"],
    kernel: Any,
) -> Float[Array, "... o"]:
    """Return x @ kernel [i, o], in the dtype of x.

    The product is computed in the narrower dtype of the two and summed in float32 or
    wider: a bfloat16 kernel makes a bfloat16 product of float32 activations, bfloat16
    activations one with a float32 adapter, in the forward and in the backward pass. A
    quantized kernel is dequantized in each of the two passes, and gets no gradient.
    """
    if isinstance(kernel, Quantized):
        return _quantized_product(x, kernel)
    if kernel.dtype == x.dtype:
        return x @ kernel
    return _mixed_product(x, kernel)


@jax.custom_vjp
def _quantized_product(x, kernel):
    return dense(x, kernel.dequantize())


def _quantized_forward(x, kernel):
    # Only the codes are kept. The backward pass dequantizes them again, so that no full
    # matrix lives from one pass to the other (QLoRA, section 3).
    return _quantized_product(x, kernel), kernel


def _quantized_backward(kernel, dy):
    transpose = kernel.T.dequantize()
    dx = dense(dy, transpose)
    return dx, None


_quantized_product.defvjp(_quantized_forward, _quantized_backward)


@jax.custom_vjp
def _mixed_product(x, kernel):
    # A float32 result lets XLA's CPU backend use the processor's bfloat16 product, 1.9
    # times as fast as the one in float32. Asked for a bfloat16 result it converts the
    # factors to float32 instead, and so it would in the transpose that autodiff makes.
    return _narrow_product(x, kernel).astype(x.dtype)


def _narrow_product(x, kernel):
    narrower = min(x.dtype, kernel.dtype, key=_itemsize)
    return jnp.matmul(
        x.astype(narrower),
        kernel.astype(narrower),
        preferred_element_type=jnp.float32,
    )


def _itemsize(dtype):
    return dtype.itemsize


def _mixed_forward(x, kernel):
    # x serves the kernel's gradient alone, so a frozen kernel's layer does not keep it.
    kept_x = x.value if kernel.perturbed else None
    product = _mixed_product(x.value, kernel.value)
    return product, (kept_x, kernel.value)


def _mixed_backward(residuals, dy):
    x, kernel = residuals
    dx = _mixed_product(dy, kernel.T)
    if x is None:
        return dx, None

    columns = _rows(x).T  # [i, N]
    rows = _rows(dy)  # [N, o]
    # In float32 before it is rounded to what the kernel is stored in.
    d_kernel = _narrow_product(columns, rows.astype(kernel.dtype))
    return dx, d_kernel.astype(kernel.dtype)


def _rows(x):
    return x.reshape(-1, x.shape[-1])


# Symbolic zeros tell the forward pass whether the kernel is differentiated.
_mixed_product.defvjp(_mixed_forward, _mixed_backward, symbolic_zeros=True)


def materialize_in_order(
    kernel: Float[Array, "i o"],
) -> Float[Array, "i o"]:
    """Return the same matrix, laid out in memory in the order of its axes.

    This pays for a kernel that is the transpose of a stored array: XLA's CPU backend
    takes twice as long for a bfloat16 product with such a matrix, and eight times for
    one of few rows. Where it does not pay, the kernel is returned as it is. Slices of a
    stack need no such care, as XLA lays them out as they are used.
    """
    if kernel.dtype != jnp.bfloat16:
        return kernel
    if jax.default_backend() != "cpu":
        return kernel
    # Of a matrix that is cut over devices, each would gather all of it.
    if jax.sharding.get_abstract_mesh().shape.get(MODEL, 1) > 1:
        return kernel
    # A vector has one order only, and the barrier hides where it came from: XLA cannot
    # undo it.
    vector = jax.lax.optimization_barrier(kernel.reshape(-1))
    return vector.reshape(kernel.shape)
