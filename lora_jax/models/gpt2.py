"""GPT-2 language models, and GPT-3's, which have the same layers at another size.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"), Brown et al. 2020 (arXiv 2005.14165; its layers of
sparse attention are dense here). The numbers are those of transformers' `GPT2LMHeadModel`. Attention and MLP are BERT's: what
differs is the causal mask and that norms come first. Shape letters are those of `layers.py`.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from lora_jax import quant
from lora_jax.checkpoints.safetensors import Rule
from lora_jax.layers import ACTIVATIONS, Embedding, LayerNorm, Linear, dense, dropout, fold
from lora_jax.models.bert import MLP, UNROLL, Attention


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    layers: int
    width: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    epsilon: float
    activation: str

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "Config":
        """From the parsed config.json; `n_inner`, if absent or null, is four times the width.

        Raises:
            ValueError: fields are missing, or ask for what this family does not have; all of them are named.
        """
        names = dict(
            layers="n_layer", width="n_embd", heads="n_head", vocabulary="vocab_size", positions="n_positions",
            epsilon="layer_norm_epsilon", activation="activation_function",
        )  # fmt: skip
        if absent := [name for name in names.values() if name not in config]:
            raise ValueError(
                f"config.json: expected the fields {', '.join(names.values())}; missing: {', '.join(absent)}"
            )
        fields = {ours: config[name] for ours, name in names.items()}
        made = cls(ffn=config.get("n_inner") or 4 * fields["width"], **fields)
        wrong = [
            f"{name} is {config[name]!r}, expected {only}"
            for name, only in FIXED.items()
            if config.get(name, only) != only
        ]
        if made.activation not in ACTIVATIONS:
            wrong.append(f"activation_function is {made.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        if made.width % made.heads:
            wrong.append(f"n_embd {made.width} is no multiple of n_head {made.heads}")
        if wrong:
            raise ValueError(f"config.json: {'; '.join(wrong)}")
        return made


FIXED = {  # fields that may be left out, and the one value of each that is implemented
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


class Embed(nnx.Module):
    """Token and position embeddings, summed."""

    def __init__(self, tokens: Embedding, positions: Embedding):
        self.tokens, self.positions = tokens, positions

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))


class Block(nnx.Module):
    """Attention and MLP, each of a norm's output and added to what came in (pre-norm)."""

    def __init__(self, attention: Attention, attention_norm: LayerNorm, mlp: MLP, mlp_norm: LayerNorm):
        self.attention, self.attention_norm, self.mlp, self.mlp_norm = attention, attention_norm, mlp, mlp_norm

    def __call__(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T T"], *, rate=0.0, key=None):
        y = self.attention_norm(x)
        h = x + dropout(fold(key, 1), rate, self.attention(y, y, mask, rate=rate, key=fold(key, 0)))
        return h + dropout(fold(key, 2), rate, self.mlp(self.mlp_norm(h), key=fold(key, 3)))


class Decoder(nnx.Module):
    """`model(tokens, length)` gives logits [B, T, V] of each next token; `model.hidden(...)` the hidden states [B, T, D]."""

    def __init__(self, embed: Embed, blocks: Block, norm: LayerNorm, *, config: Config):
        self.embed, self.blocks, self.norm = embed, blocks, norm
        self.config = config

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        length: Int[Array, " B"] | None = None,
        *,
        rate: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states after the final norm; each depends on its own and earlier tokens alone.

        Args:
            length: real tokens per row; what follows is padding and is not attended to. All real by default.
            rate, key: the pretrained model's own dropout; without a key nothing is dropped, LoRA's inputs neither.

        Raises:
            ValueError: the rows are longer than there are positions (indexing would repeat the last one in silence).
        """
        if tokens.shape[1] > self.config.positions:
            raise ValueError(
                f"expected rows of at most {self.config.positions} tokens, the model's positions; got {tokens.shape[1]}"
            )
        length = jnp.full(tokens.shape[:1], tokens.shape[1]) if length is None else length
        index = jnp.arange(tokens.shape[1])
        mask = (index <= index[:, None]) & (index < length[:, None])[:, None]
        x = dropout(fold(key, 0), rate, self.embed(tokens).astype(jnp.float32))

        def block(x, layer):
            index, block = layer
            return block(x, mask, rate=rate, key=fold(key, 1 + index)), None

        n = self.config.layers
        straight = n <= UNROLL and not quant.values(self.blocks)  # bert.Encoder.hidden says why
        return self.norm(jax.lax.scan(block, x, (jnp.arange(n), self.blocks), unroll=straight)[0])

    def __call__(self, tokens, length=None, *, rate=0.0, key=None) -> Float[Array, "B T V"]:
        """Logits of the token that follows each one, in float32."""
        x, layer = self.hidden(tokens, length, rate=rate, key=key), self.embed.tokens
        # The head is tied to what an adapter makes of the table, as it is once merged: an adapted layer is asked for its rows.
        table = (
            layer.embedding.get_value() if hasattr(layer, "embedding") else layer(jnp.arange(self.config.vocabulary))
        )
        return dense(x, table.T).astype(jnp.float32)


def init(key: Key[Array, ""], config: Config) -> Decoder:
    """A model with random weights: N(0, 0.02²), those that add to the residual stream over sqrt(2 L) (Radford et al., 2.3)."""
    d, f, n, count = config.width, config.ffn, config.layers, itertools.count()

    def matrix(*shape, std):
        return std * jax.random.normal(jax.random.fold_in(key, next(count)), shape)

    def linear(i, o, std):
        return Linear(matrix(n, i, o, std=std), jnp.zeros((n, o)))

    def norm(*stack):
        return LayerNorm(jnp.ones((*stack, d)), jnp.zeros((*stack, d)), epsilon=config.epsilon)

    std, residual = 0.02, 0.02 * (2 * n) ** -0.5
    blocks = Block(
        Attention(*(linear(d, d, to) for to in (std, std, std, residual)), heads=config.heads), norm(n),
        MLP(linear(d, f, std), linear(f, d, residual), activation=config.activation), norm(n),
    )  # fmt: skip
    embed = Embed(*(Embedding(matrix(rows, d, std=std)) for rows in (config.vocabulary, config.positions)))
    return Decoder(embed, blocks, norm(), config=config)


PREFIX = r"(?:transformer\.)?"  # there or not, as the checkpoint was saved with a head or without
LAYER = PREFIX + r"h\.(\d+)\."


def rules(config: Config) -> tuple[Rule, ...]:
    """Where each Hugging Face tensor goes. Matrices are stored (in, out), as ours; query, key and value are one tensor."""

    def block(name, *layers, weight="kernel"):
        return tuple(
            Rule(rf"{LAYER}{name}\.{theirs}", tuple(f"blocks/{layer}/{ours}" for layer in layers), 1)
            for theirs, ours in (("weight", weight), ("bias", "bias"))
        )

    return (
        Rule(PREFIX + r"wte\.weight", "embed/tokens/embedding"),
        Rule(PREFIX + r"wpe\.weight", "embed/positions/embedding"),
        *block("ln_1", "attention_norm", weight="scale"),
        *block(r"attn\.c_attn", "attention/query", "attention/key", "attention/value"),
        *block(r"attn\.c_proj", "attention/output"),
        *block("ln_2", "mlp_norm", weight="scale"),
        *block(r"mlp\.c_fc", "mlp/up"),
        *block(r"mlp\.c_proj", "mlp/down"),
        Rule(PREFIX + r"ln_f\.weight", "norm/scale"),
        Rule(PREFIX + r"ln_f\.bias", "norm/bias"),
    )


IGNORE = (
    LAYER + r"attn\.(?:masked_)?bias",  # the causal mask and its value, not parameters
    r"lm_head\.weight",  # tied: the token embedding again
)
