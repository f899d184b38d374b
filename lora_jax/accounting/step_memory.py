"""Where the bytes of a training step go, by formula.

A step is `train.train_step` on a BERT or RoBERTa encoder, whose leaves may be shapes:
nothing is allocated. Weights, gradients and moments are exact. What the backward pass
needs is derived term by term (`activations`), and nothing is fitted. `compiled_step`
has what XLA says of the same step.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import methods, train, tree
from lora_jax.accounting.activations import activation_bytes
from lora_jax.accounting.architectures import Architecture, abstract_model
from lora_jax.models import bert
from lora_jax.nn import precision
from lora_jax.nn.blocks import UNROLL


class StepMemory(NamedTuple):
    """Bytes of a training step; only some exist at one time (`fullest`)."""

    weights: int  # every leaf, as stored
    gradients: int  # of the trainable leaves
    optimizer: int  # Adam's two moments of them, and its count
    activations: int  # kept for the backward pass, and that pass's largest temporaries
    copies: int  # the kernels of each layer, cut out of their stack for products
    early: int  # gradients allocated when the backward pass is in the block before last
    checkpoint: int  # on disk, for one task

    @property
    def fullest(self) -> dict[str, int]:
        """The parts at the fullest moment.

        That is the backward pass in the block before the last, or the update. The
        update has the gradient twice, as the batch's sum and as its mean: clipping
        reads all of it first.
        """
        backward = {
            "gradients": self.early,
            "activations": self.activations,
            "copies": self.copies,
        }
        update = {"gradients": 2 * self.gradients, "activations": 0, "copies": 0}
        fuller = backward
        if sum(update.values()) > sum(backward.values()):
            fuller = update
        return {"weights": self.weights, "optimizer": self.optimizer, **fuller}

    @property
    def total(self) -> int:
        """Bytes at the fullest moment."""
        return sum(self.fullest.values())


def abstract_encoder(sizes: Architecture) -> bert.Encoder:
    """Return the encoder of an architecture, every leaf a shape.

    Raises:
        ValueError: it is of another family than BERT's.
    """
    if sizes.family not in ("bert", "roberta"):
        raise ValueError(
            f"models: expected BERT or RoBERTa encoders, got {sizes.name} "
            f"of the family {sizes.family}"
        )
    return abstract_model(sizes)


def split_shapes(
    model: Any, method: methods.Method, compute_dtype: str
) -> tuple[Any, Any]:
    """Return the trainable and the frozen leaves of an adapted model, as shapes.

    Frozen kernels have the dtype of the products.

    Raises:
        ValueError: as the method's `adapt`.
    """
    adapted = jax.eval_shape(method.adapt, jax.random.key(0), model)
    trainable, frozen = tree.split(adapted, methods.mask(adapted, method))

    def cast(leaves: Any) -> Any:
        return precision.cast_kernels(leaves, compute_dtype)

    return trainable, jax.eval_shape(cast, frozen)


def predict_memory(
    trainable: Any,
    frozen: Any,
    *,
    batch: int,
    length: int,
    compute_dtype: str = "float32",
) -> StepMemory:
    """Return the memory of one step on `batch` rows of `length` tokens, on CPU.

    The step has no dropout and no micro-batches.

    Args:
        trainable, frozen: an encoder split by `split_shapes`, or as arrays.
        compute_dtype: of the products.

    Raises:
        ValueError: the model is no encoder, or has adapters other than LoRA's: what
            these keep has not been derived.
    """
    config = _encoder_config(trainable, frozen)
    leaves = tree.leaves(trainable)
    # In the dtype of the weights.
    gradients = tree.nbytes(trainable)
    itemsize = jnp.dtype(precision.product_dtype(compute_dtype)).itemsize
    # With more layers the compiled program has a loop over blocks.
    looped = config.layers > UNROLL
    kernel_parameters = 4 * config.width**2 + 2 * config.width * config.ffn
    # XLA's CPU backend cuts the layers of a bfloat16 stack out in float32.
    kernel_itemsize = 4 if looped else itemsize
    return StepMemory(
        weights=gradients + tree.nbytes(frozen),
        gradients=gradients,
        optimizer=train.moment_bytes(trainable) + 4,
        activations=activation_bytes(config, leaves, batch, length, looped=looped),
        copies=(config.layers - 1) * kernel_itemsize * kernel_parameters,
        early=_early_gradients(leaves, config.layers, itemsize, looped=looped),
        checkpoint=gradients,
    )


def _early_gradients(
    trainable: Mapping[str, Any], layers: int, itemsize: int, *, looped: bool
) -> int:
    """Bytes of gradients allocated in the block before the last.

    A loop allocates the gradients of all blocks at its start, those of kernels in the
    dtype of the products. Unrolled blocks allocate one after the other.
    """
    inside, kernels = {}, {}
    for path, leaf in trainable.items():
        if path.startswith("blocks/"):
            inside[path] = leaf
            if path.endswith("kernel"):
                kernels[path] = leaf
    # Embeddings and head, if they are trained.
    outside_bytes = tree.nbytes(trainable) - tree.nbytes(inside)
    if not looped:
        return outside_bytes + tree.nbytes(inside) // layers
    kernel_bytes = tree.nbytes(kernels)
    other_bytes = tree.nbytes(inside) - kernel_bytes
    return outside_bytes + other_bytes + kernel_bytes * itemsize // 4


def _encoder_config(trainable: Any, frozen: Any) -> bert.Config:
    if not isinstance(trainable, bert.Encoder):
        raise ValueError(
            f"expected a BERT or RoBERTa encoder, got {type(trainable).__name__}"
        )
    # By exact type: a subclass may keep more.
    unknown = set()
    for layer in methods.adapters(tree.merge(trainable, frozen)).values():
        if type(layer) is not methods.LoRA:
            unknown.add(type(layer).__name__)
    if unknown:
        raise ValueError(
            "expected no adapters but LoRA's: what others keep is not derived; "
            f"got {', '.join(sorted(unknown))}"
        )
    return trainable.config
