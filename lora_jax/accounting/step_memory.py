"""Where the bytes of a training step go: by formula, and as XLA says of the compiled step.

A step is `train.train_step` on a BERT or RoBERTa encoder, whose leaves may be shapes: nothing is allocated. Weights, gradients and
moments are exact. What the backward pass needs is derived, term by term, from `layers.py` (the tests hold it against jax's own
list) and from what XLA's CPU backend makes of it; nothing is fitted.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import data, methods, train, tree
from lora_jax.accounting import Architecture
from lora_jax.models import bert
from lora_jax.nn.blocks import UNROLL
from lora_jax.train import classification


class Memory(NamedTuple):
    """Bytes of a training step; only some are there at one time (`fullest`)."""

    weights: int  # every leaf, as stored
    gradients: int  # of the leaves that learn
    optimizer: int  # Adam's two moments of them, and its count
    activations: int  # kept by the forward for the backward pass, and the largest temporaries of that
    copies: int  # each layer's kernels, cut out of their stack for its products
    early: int  # gradients there is room for when the backward pass is in the block before the last
    checkpoint: int  # on disk, for one task

    @property
    def fullest(self) -> dict[str, int]:
        """The parts at the fullest moment: the backward pass in the block before the last, or the update.

        The update has the gradient twice, as the batch's sum and as its mean: clipping reads the whole of it first.
        """
        backward = {
            "gradients": self.early,
            "activations": self.activations,
            "copies": self.copies,
        }
        update = {"gradients": 2 * self.gradients, "activations": 0, "copies": 0}
        most = max(backward, update, key=lambda parts: sum(parts.values()))
        return {"weights": self.weights, "optimizer": self.optimizer, **most}

    @property
    def total(self) -> int:
        """Bytes at the fullest moment."""
        return sum(self.fullest.values())


def encoder(sizes: Architecture) -> bert.Encoder:
    """The model of an architecture, with two classes, every leaf a shape.

    Raises:
        ValueError: it is of another family than BERT's.
    """
    name, family, *numbers = sizes
    if family not in ("bert", "roberta"):
        raise ValueError(
            f"models: expected BERT or RoBERTa encoders, got {name} of the family {family}"
        )
    config = bert.Config(family, *numbers, epsilon=1e-5, activation="gelu", pad=0)
    return jax.eval_shape(
        lambda key: bert.init(key, config, labels=2), jax.random.key(0)
    )


def predict(
    trainable: Any,
    frozen: Any,
    *,
    batch: int,
    length: int,
    compute_dtype: str = "float32",
) -> Memory:
    """Memory of one step on `batch` rows of `length` tokens, without dropout or micro-batches, on CPU.

    Args:
        trainable, frozen: what `tree.split` gives of an encoder, arrays or shapes; `frozen` as `precision.cast_kernels` has it.
        compute_dtype: dtype of the products.

    Raises:
        ValueError: the model is no encoder, or has adapters other than LoRA's: what these keep has not been derived.
    """
    config, learning, gradients = (
        _config(trainable, frozen),
        tree.leaves(trainable),
        tree.nbytes(trainable),
    )
    looped = (
        config.layers > UNROLL
    )  # in the compiled program; else its blocks follow one another
    product = jnp.dtype(compute_dtype).itemsize
    # The CPU backend has a loop cut bfloat16 stacks in float32.
    kernels = (4 if looped else product) * (
        4 * config.width**2 + 2 * config.width * config.ffn
    )
    return Memory(
        weights=gradients + tree.nbytes(frozen),
        gradients=gradients,
        optimizer=2 * gradients + 4,
        activations=_activations(config, learning, batch, length, looped),
        copies=(config.layers - 1) * kernels,
        early=_early(learning, config.layers, product, looped),
        checkpoint=gradients,
    )


def _activations(
    config: bert.Config,
    learning: Mapping[str, Any],
    batch: int,
    length: int,
    looped: bool,
) -> int:
    """Of all blocks but the last, of which at that moment nothing is left; it is computed for one token alone anyway."""
    each = sum(kept(config, learning, length).values())
    if not looped:
        each += sum(kept_by_xla(config, learning, length).values())
    largest = 2 * config.ffn  # the gradients of the activation's output and input
    bytes_ = 4 * batch * length * ((config.layers - 1) * each + largest)
    # Which scores are masked, and what they are then: a boolean and a float32 each, the same in every turn of a loop.
    return bytes_ + 5 * batch * config.heads * length**2 * looped


def kept(
    config: bert.Config, learning: Mapping[str, Any], length: int
) -> dict[str, int]:
    """float32 numbers that a block keeps per token for its backward pass, by what they are: what autodiff asks for.

    A layer's input is kept where its matrix learns or has an adapter; norms and activation keep their inputs and compute the
    rest anew. `learning`: the trainable leaves by path.
    """
    d, f, scores = config.width, config.ffn, config.heads * length

    def learns(layer: str) -> bool:
        return any(
            re.fullmatch(rf"blocks/{layer}/((base/)?kernel|lora_a)", path)
            for path in learning
        )

    return {
        "query, key, value": 3 * d,
        "softmax": 2 * scores
        + 2
        * config.heads,  # exponentials and weights; the sums and what divides by them
        "inputs of the norms": 2 * d,
        "input of the activation": f,
        "block's input": d * learns("attention/(query|key|value)"),
        "input of the attention's output": d * learns("attention/output"),
        "input of the MLP": d * learns("mlp/up"),
        "output of the activation": f * learns("mlp/down"),
        "between A and B": sum(
            leaf.shape[-1]
            for path, leaf in learning.items()
            if re.match(r"blocks/.*/lora_a$", path)
        ),
    }


def kept_by_xla(
    config: bert.Config, learning: Mapping[str, Any], length: int
) -> dict[str, int]:
    """float32 numbers per token that XLA keeps beside them, in blocks that are no loop.

    It finds what the backward pass is to compute anew to be the same as what the forward pass computed, and keeps that; and it
    writes out factors that are the same for a whole line.
    """
    scales = sum(
        bool(re.fullmatch(r"blocks/\w+_norm/scale", path)) for path in learning
    )
    sums = (
        "blocks/mlp/up/lora_a" in learning
    )  # both products are kept, instead of their sum, and three parts of the GELU
    return {
        "the softmax's divisors": config.heads * length,
        "the norms' centred inputs": 2 * config.width,
        "the norms' factors, where scales learn": scales * config.width,
        "the activation's, where an adapter adds to its input": 4 * config.ffn * sums,
    }


def _early(
    learning: Mapping[str, Any], layers: int, itemsize: int, looped: bool
) -> int:
    """A loop has room for the gradients of all blocks from the start, kernels' in the dtype of the products; else one block's."""
    blocks = {
        path: leaf for path, leaf in learning.items() if path.startswith("blocks/")
    }
    outside, inside = tree.nbytes(learning) - tree.nbytes(blocks), tree.nbytes(blocks)
    if not looped:
        return outside + inside // layers
    kernels = tree.nbytes(
        [leaf for path, leaf in blocks.items() if path.endswith("kernel")]
    )
    return outside + inside - kernels + kernels * itemsize // 4


def _config(trainable: Any, frozen: Any) -> bert.Config:
    if not isinstance(trainable, bert.Encoder):
        raise ValueError(
            f"expected a BERT or RoBERTa encoder, got {type(trainable).__name__}"
        )
    layers = methods.adapters(tree.merge(trainable, frozen))
    if other := sorted(
        {
            type(layer).__name__
            for layer in layers.values()
            if type(layer) is not methods.LoRA
        }
    ):
        raise ValueError(
            f"expected no adapters but LoRA's: what others keep is not derived; got {', '.join(other)}"
        )
    return trainable.config


def compiled(
    trainable: Any,
    frozen: Any,
    *,
    batch: int,
    length: int,
    compute_dtype: str = "float32",
) -> dict[str, int]:
    """Bytes that XLA says the same step takes: arguments, temporaries, and in all with results that take no argument's place.

    Raises:
        ValueError: the backend does not say.
    """
    of: Any = jax.ShapeDtypeStruct
    config = train.step_config(train.TrainConfig(compute_dtype=compute_dtype))
    state = jax.eval_shape(train.optimizer(config).init, trainable)
    text, row, number = (
        of((batch, length), "int32"),
        of((batch,), "int32"),
        of((), "float32"),
    )
    rows = data.Batch(
        tokens=text,
        segments=text,
        length=row,
        label=row,
        weight=of((batch,), "float32"),
        index=row,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = train.train_step.lower(
        trainable,
        state,
        frozen,
        rows,
        number,
        key,
        loss=classification.loss,
        config=config,
    )
    # Buffers are laid out before there is machine code, which need not be good as it is not run: half the time.
    found: Any = lowered.compile(
        {"xla_backend_optimization_level": "0"}
    ).memory_analysis()
    if found is None:
        raise ValueError(
            f"expected a backend that says what memory a program takes, got {jax.default_backend()}"
        )
    taken, temporary = found.argument_size_in_bytes, found.temp_size_in_bytes
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    return {
        "arguments": taken,
        "temporary": temporary,
        "total": taken + temporary + new,
    }
