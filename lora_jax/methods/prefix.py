"""Prefix-layer tuning: trainable activations in front of the text at every layer.

A baseline of LoRA's Tables 3, 4 and 13 to 15 (Hu et al. 2021, arXiv 2106.09685, section
5.1), after Li and Liang 2021 (arXiv 2101.00190).
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax import tree
from lora_jax.methods import base
from lora_jax.nn.attention import Attention, AttentionContext, Cache, heads_first

# The attention of all layers, which are stacked.
PATH = "blocks/attention"


class PrefixLayer(nnx.Module):
    """Attention with `prefix` [P, D] in front of what it reads.

    All tokens attend to the keys and values that are computed of the prefix.
    """

    def __init__(self, layer: Attention, prefix: Any):
        self.base = layer
        self.prefix = nnx.Param(prefix)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        y: Float[Array, "B S D"],
        context: AttentionContext,
        cache: Cache | None = None,
        *,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Return what `Attention` returns.

        The prefix's keys and values are computed anew in each call, so that the cache
        holds those of the text alone.
        """
        # [B, G, P, K]
        keys = self._prefix_heads(self.base.key, y)
        values = self._prefix_heads(self.base.value, y)
        return self.base(
            x, y, context, cache, prefix=(keys, values), rate=rate, key=key
        )

    def _prefix_heads(
        self, projection: Any, y: Float[Array, "B S D"]
    ) -> Float[Array, "B G P K"]:
        one_row = self.prefix[...].astype(y.dtype)[None]  # [1, P, D]
        # [1, G, P, K]
        heads = heads_first(projection(one_row), self.base.kv_heads)
        # The same for all rows of the batch.
        return jnp.broadcast_to(heads, (y.shape[0], *heads.shape[1:]))

    def parameters(self) -> int:
        """Return the number of trainable parameters: P d a layer."""
        # With a layer axis, the prefixes of all layers.
        return self.prefix.size


def prefix(prefix_length: int = 10) -> base.Method:
    """Return the method that trains a prefix at every layer: L d l_p parameters.

    There is no infix: the paper's l_i is 0. The prefix is what attention reads, hence
    after the norm where a block begins with one. It has no positions: those of the text
    stay the same, and rotary embedding does not turn the prefix's keys.

    Unlike other methods this one cannot start at the pretrained model. It starts at the
    model with random tokens in front of the text. Random numbers train worse, as Li and
    Liang found: MiniLM on 1,000 rows of rotten-tomatoes (three epochs, learning rate
    0.01, seed 0) scored 67 % on test from words (ids 1,000 to 28,000), and 60, 64 and
    54 % from N(0, 0.02²), N(0, 0.3²) and N(0, 1). Their MLP that reparametrizes the
    prefix is left out.

    Args:
        prefix_length: Number of activations in front of the text, the paper's l_p.

    Raises:
        ValueError: `prefix_length` is no integer of 1 or more; from `adapt`: it is more
            than the model has positions, or the model's attention is none of this
            library's.
    """
    if not (isinstance(prefix_length, Integral) and prefix_length >= 1):
        raise ValueError(
            f"prefix_length: expected an integer >= 1, got {prefix_length}"
        )

    def adapt(key, model):
        attention = _attention(model)
        positions = model.config.max_positions
        # The prefix has no positions, but the tokens it starts from have.
        if prefix_length > positions:
            raise ValueError(
                f"prefix_length: expected at most {positions}, the model's positions, "
                f"got {prefix_length}"
            )
        # One row of random tokens; the prefix is what each layer reads of them.
        shape = (1, int(prefix_length))
        tokens_key = base.path_key(key, PATH)
        tokens = jax.random.randint(tokens_key, shape, 0, model.config.vocabulary)
        start = read_by_attention(model, tokens)[:, 0]  # [L, P, D]
        return tree.replace(model, {PATH: PrefixLayer(attention, start)})

    return base.Method("prefix", adapt, trainable=r"(^|/)prefix$")


def _attention(model: Any) -> Attention:
    """Return the attention of a model's blocks; raise ValueError if it is foreign."""
    attention = tree.nodes(model).get(PATH)
    if not isinstance(attention, Attention):
        kind = "none" if attention is None else type(attention).__name__
        raise ValueError(
            f"prefix: expected a model whose {PATH} is this library's Attention, "
            f"got {kind}"
        )
    return attention


@jax.jit
def read_by_attention(model: Any, tokens: Int[Array, "B T"]) -> Float[Array, "L B T D"]:
    """Return what the attention of each layer reads of these tokens."""
    layer_inputs: list[Array] = []
    blocks = []
    # Unstacked, since the inputs of a scan's layers could not be appended to a list.
    for block in tree.unstack(model.blocks):
        recorder = _RecordingAttention(block.attention, layer_inputs.append)
        blocks.append(tree.replace(block, {"attention": recorder}))
    recording = tree.replace(model, {"blocks": tuple(blocks)})
    # The hidden states themselves are not needed.
    recording.hidden(tokens)
    return jnp.stack(layer_inputs)


class _RecordingAttention(nnx.Module):
    """Attention that passes what it reads to `record`."""

    def __init__(self, layer: Attention, record: Callable[[Array], None]):
        self.base = layer
        self.record = record

    def __call__(self, x, y, *arguments, **options):
        self.record(y)
        return self.base(x, y, *arguments, **options)
