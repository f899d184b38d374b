"""BERT and RoBERTa encoders with a classification or regression head.

Devlin et al. 2019 (arXiv 1810.04805), Liu et al. 2019 (arXiv 1907.11692). The numbers
are those of transformers' `BertForSequenceClassification` and
`RobertaForSequenceClassification`. Shape letters are those of `nn/layers.py`; C is the
number of classes, Q the number of tokens whose last states are computed.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.models.bert_checkpoint import (
    IGNORE,
    SIZES,
    rules,
    without_other_heads,
)
from lora_jax.models.bert_config import Config
from lora_jax.models.initial_weights import matrix_drawer
from lora_jax.models.padding import check_row_length, text_positions
from lora_jax.nn.attention import Attention, AttentionContext
from lora_jax.nn.blocks import scan_blocks, should_unroll, without_last
from lora_jax.nn.engine import PLAIN, Engine
from lora_jax.nn.layers import (
    MLP,
    Embedding,
    LayerNorm,
    Linear,
    dropout,
    fold_key,
)
from lora_jax.nn.visibility import Visibility

__all__ = [
    "IGNORE",
    "SIZES",
    "Config",
    "Encoder",
    "init",
    "rules",
    "without_other_heads",
]


class Embed(nnx.Module):
    """Token, position and segment embeddings, summed and normalized."""

    def __init__(
        self,
        tokens: Embedding,
        positions: Embedding,
        segments: Embedding,
        norm: LayerNorm,
        *,
        offset: int,
    ):
        self.tokens = tokens
        self.positions = positions
        self.segments = segments
        self.norm = norm
        self.offset = offset

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        embedded_positions = self.positions(self.offset + positions)
        summed = self.tokens(tokens) + self.segments(segments) + embedded_positions
        return self.norm(summed)


class Block(nnx.Module):
    """Attention and MLP, each added to its input and then normalized (post-norm)."""

    def __init__(
        self,
        attention: Attention,
        attention_norm: LayerNorm,
        mlp: MLP,
        mlp_norm: LayerNorm,
    ):
        self.attention = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: AttentionContext,
        *,
        queries: int | None = None,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Return the block's output at the first `queries` tokens (all by default)."""
        # Each of the block's two halves has a key for its layers and one for its sum.
        attention_key = fold_key(key, 0)
        attention_sum_key = fold_key(key, 1)
        mlp_sum_key = fold_key(key, 2)
        mlp_key = fold_key(key, 3)

        first = x[:, :queries]  # [B, Q, D]
        attended, _ = self.attention(first, x, context, rate=rate, key=attention_key)
        x = first + dropout(attention_sum_key, rate, attended)
        x = self.attention_norm(x)

        transformed = self.mlp(x, key=mlp_key)
        x = x + dropout(mlp_sum_key, rate, transformed)
        return self.mlp_norm(x)


class Head(nnx.Module):
    """RoBERTa's classification head: dense, tanh, output."""

    def __init__(self, dense: Linear, output: Linear):
        self.dense = dense
        self.output = output

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        return self.output(jnp.tanh(self.dense(x)))


class Encoder(nnx.Module):
    """A classifier of texts, or a regressor.

    `model(tokens, segments, length)` returns the logits [B, C], `model.hidden(...)` the
    hidden states [B, T, D].
    """

    def __init__(
        self,
        embed: Embed,
        blocks: Block,
        pooler: Linear | None,
        head: Linear | Head,
        *,
        config: Config,
    ):
        self.embed = embed
        self.blocks = blocks
        self.pooler = pooler
        self.head = head
        self.config = config

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        length: Int[Array, " B"] | None = None,
        *,
        texts: Int[Array, "B T"] | None = None,
        queries: int | None = None,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
        engine: Engine = PLAIN,
    ) -> Float[Array, "B Q D"]:
        """Return the hidden states of the last layer.

        Args:
            tokens: one text, or pair of texts, a row.
            segments: 0 for tokens of the first text, 1 for those of the second; all 0
                by default.
            length: the number of real tokens of each row; what follows is padding and
                is not attended to. All are real by default.
            texts: the number of each token's text in rows of several texts, which do
                not see each other. It says what is padding, too.
            queries: the number of first tokens whose states are returned; all by
                default.
            rate: the rate of the pretrained model's own dropout.
            key: the random key of all dropout, that of adapters included; without a key
                nothing is dropped.
            engine: how the blocks are computed.

        Raises:
            ValueError: the rows are longer than the model has positions.
        """
        # RoBERTa's first positions belong to its padding.
        longest = self.config.max_positions - self.config.offset
        if texts is None:
            check_row_length(tokens, longest)
        if segments is None:
            segments = jnp.zeros_like(tokens)
        positions = None
        visibility = Visibility(stop=length)
        if texts is not None:
            positions = text_positions(texts)
            visibility = Visibility(texts=texts)
        context = AttentionContext(visibility, engine=engine)
        embedded = self.embed(tokens, segments, positions)
        # Whatever the embedding is stored in.
        embedded = embedded.astype(engine.activations)
        x = dropout(fold_key(key, 0), rate, embedded)

        def step(x, index, block, _):
            block_key = fold_key(key, 1 + index)
            return block(x, context, rate=rate, key=block_key), None

        # The last block is apart, because it may be computed for a few tokens only. The
        # backward pass begins in it, so that it keeps its numbers for no time.
        blocks, last_block = without_last(self.blocks)
        unroll = should_unroll(self.blocks, engine.remat)
        x, _ = scan_blocks(step, x, blocks, unroll=unroll, remat=engine.remat)
        last_key = fold_key(key, self.config.layers)
        return last_block(x, context, queries=queries, rate=rate, key=last_key)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        length: Int[Array, " B"] | None = None,
        *,
        texts: Int[Array, "B T"] | None = None,
        starts: Int[Array, "B N"] | None = None,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
        engine: Engine = PLAIN,
    ) -> Float[Array, "B C"] | Float[Array, "B N C"]:
        """Return the logits in float32. Arguments and errors are those of `hidden`.

        In rows of several texts they are those of each text, [B, N, C]. `starts` has
        the texts' first tokens.
        """
        # The head reads a text's first token alone. Where it is the row's, the last
        # block is computed for no other.
        states = self.hidden(
            tokens,
            segments,
            length,
            texts=texts,
            queries=1 if starts is None else None,
            rate=rate,
            key=key,
            engine=engine,
        )
        x = states[:, 0]  # [B, D]
        if starts is not None:
            x = jnp.take_along_axis(states, starts[..., None], axis=1)  # [B, N, D]
        x = x.astype(jnp.float32)
        if self.pooler is not None:  # BERT's; RoBERTa has it in its head
            x = jnp.tanh(self.pooler(x))
        # Key 0 is the embedding's, 1 to L are the blocks', L + 1 is the head's.
        head_key = fold_key(key, self.config.layers + 1)
        x = dropout(head_key, rate, x)
        return self.head(x).astype(jnp.float32)


def init(key: Key[Array, ""], config: Config, *, labels: int) -> Encoder:
    """Return a model with random weights: N(0, 0.02²), as both families began."""
    draw = matrix_drawer(key)
    width, ffn, layers = config.width, config.ffn, config.layers
    is_roberta = config.kind == "roberta"

    def linear(inputs: int, outputs: int, *stack: int) -> Linear:
        return Linear(draw(*stack, inputs, outputs), jnp.zeros((*stack, outputs)))

    def norm(*stack: int) -> LayerNorm:
        shape = (*stack, width)
        return LayerNorm(jnp.ones(shape), jnp.zeros(shape), epsilon=config.epsilon)

    # The order of these calls decides which key draws which matrix. The leaves of the
    # blocks are stacked: [L, ..].
    embed = Embed(
        tokens=Embedding(draw(config.vocabulary, width)),
        positions=Embedding(draw(config.max_positions, width)),
        segments=Embedding(draw(config.segments, width)),
        norm=norm(),
        offset=config.offset,
    )
    attention = Attention(
        query=linear(width, width, layers),
        key=linear(width, width, layers),
        value=linear(width, width, layers),
        output=linear(width, width, layers),
        heads=config.heads,
    )
    mlp = MLP(
        up=linear(width, ffn, layers),
        down=linear(ffn, width, layers),
        activation=config.activation,
    )
    blocks = Block(attention, norm(layers), mlp, norm(layers))
    # BERT pools the first token before a linear head, RoBERTa within its head.
    if is_roberta:
        pooler = None
        head = Head(dense=linear(width, width), output=linear(width, labels))
    else:
        pooler = linear(width, width)
        head = linear(width, labels)
    return Encoder(embed, blocks, pooler, head, config=config)
