"""Models of random numbers that are drawn on the device, of any size that fits it.

A step takes as long on them as on pretrained ones. A quantized matrix is drawn and
quantized layer by layer: its numbers never exist all at once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lora_jax import quant, tree
from lora_jax.accounting.fitted_step import FittedStep, stored_model
from lora_jax.models.initial_weights import STD


def random_model(step: FittedStep) -> Any:
    """Return a step's model as it is stored: dtype, format and shapes are the step's.

    Scales of norms are 1, biases 0, and all else is normal.

    Raises:
        ValueError: the model or the format is wrong.
    """
    shapes = stored_model(step)
    values = {}
    for index, (path, leaf) in enumerate(tree.leaves(shapes).items()):
        # A key for each leaf, whatever the others are.
        key = jax.random.fold_in(jax.random.key(0), index)
        if quant.is_quantized(leaf):
            layers, *shape = leaf.shape  # [L, i, o]
            keys = jax.random.split(key, layers)
            values[path] = _layers(keys, tuple(shape), leaf.dtype, step.quantize)
        else:
            values[path] = _leaf(key, path, leaf)
    return tree.replace(shapes, values)


def _leaf(key: Any, path: str, leaf: Any) -> Any:
    """The numbers of a leaf that is a shape."""
    if path.endswith("scale"):
        return jnp.ones(leaf.shape, leaf.dtype)
    if path.endswith("bias"):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return _normal(key, leaf.shape, leaf.dtype)


# Compiled once for all matrices of a shape.
@partial(jax.jit, static_argnames=("shape", "dtype", "quantize"))
def _layers(keys: Any, shape: tuple[int, ...], dtype: Any, quantize: str) -> Any:
    """Quantized kernels [L, i, o]."""
    # By the path of any kernel: they are all stored alike.
    spec = quant.find_spec(quantize)._replace(paths="kernel")

    def draw(key: Any) -> Any:
        return spec("kernel", _normal(key, shape, dtype))

    # A loop: one layer's numbers exist at a time.
    return jax.lax.map(draw, keys)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _normal(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return STD * jax.random.normal(key, shape, dtype)
