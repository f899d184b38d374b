"""BERT and RoBERTa encoders with a classification or regression head.

Devlin et al. 2019 (arXiv 1810.04805), Liu et al. 2019 (arXiv 1907.11692). The numbers are those of transformers'
`BertForSequenceClassification` and `RobertaForSequenceClassification`. Shape letters are those of `layers.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.checkpoints.placement import Rule
from lora_jax.models.hf_config import fields
from lora_jax.nn.attention import Attention, AttentionContext
from lora_jax.nn.blocks import scan_blocks, should_unroll, without_last
from lora_jax.nn.layers import (
    ACTIVATIONS,
    MLP,
    Embedding,
    LayerNorm,
    Linear,
    dropout,
    fold_key,
)


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    kind: str  # "bert" or "roberta"
    layers: int
    width: int
    heads: int
    ffn: int
    vocabulary: int
    max_positions: int
    segments: int
    epsilon: float
    activation: str
    pad: int

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "Config":
        """From the parsed config.json.

        Raises:
            ValueError: a field is missing, or asks for something this family does not have.
        """
        names = dict(
            layers="num_hidden_layers",
            width="hidden_size",
            heads="num_attention_heads",
            ffn="intermediate_size",
            vocabulary="vocab_size",
            max_positions="max_position_embeddings",
            segments="type_vocab_size",
            epsilon="layer_norm_eps",
            activation="hidden_act",
            pad="pad_token_id",
        )
        made = cls(kind=config["model_type"], **fields(config, names))
        if made.activation not in ACTIVATIONS:
            raise ValueError(
                f"config.json: hidden_act is {made.activation!r}, expected one of {', '.join(ACTIVATIONS)}"
            )
        if (how := config.get("position_embedding_type", "absolute")) != "absolute":
            raise ValueError(
                f"config.json: position_embedding_type is {how!r}, expected 'absolute'"
            )
        if made.width % made.heads:
            raise ValueError(
                f"config.json: hidden_size {made.width} is no multiple of num_attention_heads {made.heads}"
            )
        return made

    @property
    def offset(self) -> int:
        """The position index of the first token: RoBERTa counts from its padding index + 1."""
        return self.pad + 1 if self.kind == "roberta" else 0


class Embed(nnx.Module):
    """Token, position and segment embeddings, summed and normalised."""

    def __init__(
        self,
        tokens: Embedding,
        positions: Embedding,
        segments: Embedding,
        norm: LayerNorm,
        *,
        offset: int,
    ):
        self.tokens, self.positions, self.segments, self.norm = (
            tokens,
            positions,
            segments,
            norm,
        )
        self.offset = offset

    def __call__(
        self, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        positions = self.positions(self.offset + jnp.arange(tokens.shape[1]))
        return self.norm(self.tokens(tokens) + self.segments(segments) + positions)


class Block(nnx.Module):
    """Attention and MLP, each followed by dropout, the residual sum and a norm (post-norm)."""

    def __init__(
        self,
        attention: Attention,
        attention_norm: LayerNorm,
        mlp: MLP,
        mlp_norm: LayerNorm,
    ):
        self.attention, self.attention_norm, self.mlp, self.mlp_norm = (
            attention,
            attention_norm,
            mlp,
            mlp_norm,
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask,
        *,
        queries: int | None = None,
        rate=0.0,
        key=None,
    ):
        """The block's output at the first `queries` tokens (all by default)."""
        first = x[:, :queries]
        mixed, _ = self.attention(
            first, x, AttentionContext(mask), rate=rate, key=fold_key(key, 0)
        )
        h = self.attention_norm(first + dropout(fold_key(key, 1), rate, mixed))
        return self.mlp_norm(
            h + dropout(fold_key(key, 2), rate, self.mlp(h, key=fold_key(key, 3)))
        )


class Head(nnx.Module):
    """RoBERTa's classification head: dense, tanh, output."""

    def __init__(self, dense: Linear, output: Linear):
        self.dense, self.output = dense, output

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        return self.output(jnp.tanh(self.dense(x)))


class Encoder(nnx.Module):
    """`model(tokens, segments, length)` gives logits [B, C]; `model.hidden(...)` the hidden states [B, T, D]."""

    def __init__(
        self,
        embed: Embed,
        blocks: Block,
        pooler: Linear | None,
        head: Linear | Head,
        *,
        config: Config,
    ):
        self.embed, self.blocks, self.pooler, self.head = embed, blocks, pooler, head
        self.config = config

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        segments: Int[Array, "B T"] | None = None,
        length: Int[Array, " B"] | None = None,
        *,
        queries: int | None = None,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Hidden states of the last layer at the first `queries` tokens (all by default).

        Args:
            length: real tokens per row; what follows is padding and is not attended to. All real by default.
            rate, key: the pretrained model's own dropout; without a key nothing is dropped, LoRA's inputs neither.

        Raises:
            ValueError: the rows are longer than there are positions (indexing would repeat the last one in silence).
        """
        if tokens.shape[1] > (most := self.config.max_positions - self.config.offset):
            raise ValueError(
                f"expected rows of at most {most} tokens, the model's positions; got {tokens.shape[1]}"
            )
        segments = jnp.zeros_like(tokens) if segments is None else segments
        length = (
            jnp.full(tokens.shape[:1], tokens.shape[1]) if length is None else length
        )
        mask = (jnp.arange(tokens.shape[1]) < length[:, None])[:, None]
        x = dropout(
            fold_key(key, 0), rate, self.embed(tokens, segments).astype(jnp.float32)
        )

        def step(x, index, block, _):
            return block(x, mask, rate=rate, key=fold_key(key, 1 + index)), None

        most, last = without_last(self.blocks)
        unroll = should_unroll(self.blocks)
        x, _ = scan_blocks(step, x, most, unroll=unroll)
        return last(
            x, mask, queries=queries, rate=rate, key=fold_key(key, self.config.layers)
        )

    def __call__(
        self, tokens, segments=None, length=None, *, rate=0.0, key=None
    ) -> Float[Array, "B C"]:
        """Logits, in float32. The last block is computed for the first token alone: the head reads nothing else."""
        x = self.hidden(tokens, segments, length, queries=1, rate=rate, key=key)[:, 0]
        x = dropout(
            fold_key(key, self.config.layers + 1),
            rate,
            x if self.pooler is None else jnp.tanh(self.pooler(x)),
        )
        return self.head(x).astype(jnp.float32)


def init(key: Key[Array, ""], config: Config, *, labels: int) -> Encoder:
    """A model with random weights: N(0, 0.02²) matrices, as both families were initialised."""
    d, f, count = config.width, config.ffn, iter(range(1_000_000))

    def matrix(*shape):
        return 0.02 * jax.random.normal(jax.random.fold_in(key, next(count)), shape)

    def linear(i, o, *stack):
        return Linear(matrix(*stack, i, o), jnp.zeros((*stack, o)))

    def norm(*stack):
        return LayerNorm(
            jnp.ones((*stack, d)), jnp.zeros((*stack, d)), epsilon=config.epsilon
        )

    n = config.layers
    roberta = config.kind == "roberta"
    sizes = config.vocabulary, config.max_positions, config.segments
    tokens, positions, segments = (Embedding(matrix(rows, d)) for rows in sizes)
    embed = Embed(tokens, positions, segments, norm(), offset=config.offset)
    blocks = Block(
        Attention(*(linear(d, d, n) for _ in range(4)), heads=config.heads),
        norm(n),
        MLP(linear(d, f, n), linear(f, d, n), activation=config.activation),
        norm(n),
    )
    pooler = None if roberta else linear(d, d)
    head = Head(linear(d, d), linear(d, labels)) if roberta else linear(d, labels)
    return Encoder(embed, blocks, pooler, head, config=config)


PREFIX = r"(?:(?:bert|roberta)\.)?"  # there or not, as the checkpoint was saved with a head or without
LAYER = PREFIX + r"encoder\.layer\.(\d+)\."


def rules(config: Config) -> tuple[Rule, ...]:
    """Where each Hugging Face tensor goes."""

    def linear(name, path, layer=None):
        return Rule(name + r"\.weight", f"{path}/kernel", layer, True), Rule(
            name + r"\.bias", f"{path}/bias", layer
        )

    def norm(name, path, layer=None):  # older checkpoints say gamma and beta
        scale, bias = (
            name + r"\.LayerNorm\.(?:weight|gamma)",
            name + r"\.LayerNorm\.(?:bias|beta)",
        )
        return Rule(scale, f"{path}/scale", layer), Rule(bias, f"{path}/bias", layer)

    bert = *linear(PREFIX + r"pooler\.dense", "pooler"), *linear("classifier", "head")
    roberta = (
        *linear(r"classifier\.dense", "head/dense"),
        *linear(r"classifier\.out_proj", "head/output"),
    )
    return (
        Rule(PREFIX + r"embeddings\.word_embeddings\.weight", "embed/tokens/embedding"),
        Rule(
            PREFIX + r"embeddings\.position_embeddings\.weight",
            "embed/positions/embedding",
        ),
        Rule(
            PREFIX + r"embeddings\.token_type_embeddings\.weight",
            "embed/segments/embedding",
        ),
        *norm(PREFIX + "embeddings", "embed/norm"),
        *linear(
            LAYER + r"attention\.self\.(query|key|value)", r"blocks/attention/\2", 1
        ),
        *linear(LAYER + r"attention\.output\.dense", "blocks/attention/output", 1),
        *norm(LAYER + r"attention\.output", "blocks/attention_norm", 1),
        *linear(LAYER + r"intermediate\.dense", "blocks/mlp/up", 1),
        *linear(LAYER + r"output\.dense", "blocks/mlp/down", 1),
        *norm(LAYER + "output", "blocks/mlp_norm", 1),
        *(roberta if config.kind == "roberta" else bert),
    )


IGNORE = (
    PREFIX + r"embeddings\.position_ids",
    r"(?:cls|lm_head)\..*",  # the pretraining heads
    PREFIX
    + r"pooler\.dense\.(?:weight|bias)",  # where the family has none: RoBERTa's head replaces it
)
