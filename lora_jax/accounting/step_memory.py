"""Where the bytes of a training step go, by formula.

A step is `train.train_step` on an encoder or a decoder, whose leaves may be shapes:
nothing is allocated. Weights, gradients and moments are exact. What the backward pass
and the loss need is derived term by term (`train.footprint`), and nothing is fitted.
`compiled_step` has what XLA says of the same step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import methods, train, tree
from lora_jax.accounting.architectures import Architecture, abstract_model
from lora_jax.models import bert
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.train import footprint


class StepMemory(NamedTuple):
    """Bytes of a training step; only some exist at one time (`fullest`)."""

    weights: int  # every leaf, as stored
    gradients: int  # of the trainable leaves
    optimizer: int  # Adam's two moments of them, and its count
    activations: int  # kept for the backward pass, and that pass's or the loss's own
    copies: int  # matrices that are laid out or converted for products
    early: int  # gradients allocated when the activations are fullest
    checkpoint: int  # on disk, for one task
    update: int  # gradients while the moments and the weights are updated

    @property
    def fullest(self) -> dict[str, int]:
        """The parts at the fullest moment.

        That is the backward pass in a block, the loss of a decoder, or the update.
        """
        backward = {
            "gradients": self.early,
            "activations": self.activations,
            "copies": self.copies,
        }
        update = {"gradients": self.update, "activations": 0, "copies": 0}
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
    remat: str = "none",
    attention: str = "auto",
    backend: str = "cpu",
) -> StepMemory:
    """Return the memory of one step on `batch` rows of `length` tokens.

    The step has no dropout and no micro-batches.

    Args:
        trainable, frozen: a model split by `split_shapes`, or as arrays.
        batch, length: the rows, and the tokens of each.
        compute_dtype: of `nn.precision.COMPUTE_DTYPES`.
        remat: what the backward pass computes anew, of `nn.blocks.REMATS`.
        attention: of `nn.attend.ATTENTIONS`.
        backend: jax's name of what the step is compiled for: cpu or gpu.

    Raises:
        ValueError: the model is neither encoder nor decoder, or has adapters other than
            LoRA's: what these keep has not been derived.
    """
    _check_model(trainable, frozen)
    config = train.StepConfig(
        compute_dtype=compute_dtype, remat=remat, attention=attention, backend=backend
    )
    moment = footprint.fullest(trainable, frozen, config, rows=batch, length=length)
    gradients = tree.nbytes(trainable)  # in the dtype of the weights
    return StepMemory(
        weights=gradients + tree.nbytes(frozen),
        gradients=gradients,
        optimizer=train.moment_bytes(trainable) + 4,
        activations=moment.activations,
        copies=moment.copies,
        early=moment.gradients,
        checkpoint=gradients,
        update=_update_bytes(trainable, config),
    )


def _update_bytes(trainable: Any, config: train.StepConfig) -> int:
    """Gradients while the moments and the weights are updated."""
    gradients = tree.nbytes(trainable)
    if config.backend != "cpu":
        # A GPU divides by the batch's size while it reads.
        return gradients
    # The batch's sum as well as its mean: clipping reads all of it first.
    dtype = precision.product_dtype(config.compute_dtype)
    leaves = tree.leaves(trainable)
    return gradients + footprint.unscaled_gradients(leaves, jnp.dtype(dtype).itemsize)


def _check_model(trainable: Any, frozen: Any) -> None:
    if not isinstance(trainable, bert.Encoder | Decoder):
        raise ValueError(
            "expected an encoder (BERT, RoBERTa) or a decoder (GPT-2, Llama), "
            f"got {type(trainable).__name__}"
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
