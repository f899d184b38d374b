"""GPT-2 language models, and GPT-3's, which have the same layers at another size.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"), Brown et al. 2020 (arXiv 2005.14165; its layers of
sparse attention are dense here). The numbers are those of transformers' `GPT2LMHeadModel`. Shape letters are
those of `layers.py`.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.checkpoints.placement import Rule
from lora_jax.models.decoder import Block, Decoder, end_tokens
from lora_jax.models.hf_config import fields
from lora_jax.nn.attention import Attention
from lora_jax.nn.layers import ACTIVATIONS, MLP, Embedding, LayerNorm, Linear


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    layers: int
    width: int
    heads: int
    ffn: int
    vocabulary: int
    max_positions: int
    epsilon: float
    activation: str
    eos_ids: tuple[
        int, ...
    ] = ()  # the tokens that end a text; what is trained on ends with the first

    pad, offset = 0, 0  # padding is never seen; the first position's index
    rope_frequencies = None  # positions are embedded, not rotated

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "Config":
        """From the parsed config.json; `n_inner`, if absent or null, is four times the width.

        Raises:
            ValueError: fields are missing, or ask for what this family does not have; all of them are named.
        """
        names = dict(
            layers="n_layer",
            width="n_embd",
            heads="n_head",
            vocabulary="vocab_size",
            max_positions="n_positions",
            epsilon="layer_norm_epsilon",
            activation="activation_function",
        )
        inner = {"ffn": "n_inner"} if config.get("n_inner") else {}
        found = fields(config, names | inner)
        made = cls(**{"ffn": 4 * found["width"], **found}, eos_ids=end_tokens(config))
        wrong = [
            f"{name} is {config[name]!r}, expected {only}"
            for name, only in FIXED.items()
            if config.get(name, only) != only
        ]
        if made.activation not in ACTIVATIONS:
            wrong.append(
                f"activation_function is {made.activation!r}, expected one of {', '.join(ACTIVATIONS)}"
            )
        if made.width % made.heads:
            wrong.append(f"n_embd {made.width} is no multiple of n_head {made.heads}")
        if wrong:
            raise ValueError(f"config.json: {'; '.join(wrong)}")
        return made

    @property
    def kv_heads(self) -> int:
        """Heads of keys: every head of queries has its own."""
        return self.heads

    @property
    def head_dim(self) -> int:
        """Numbers of a head."""
        return self.width // self.heads


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

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "#B T"]
    ) -> Float[Array, "B T D"]:
        return self.tokens(tokens) + self.positions(positions)


def init(key: Key[Array, ""], config: Config) -> Decoder:
    """A model with random weights: N(0, 0.02²), those that add to the residual stream over sqrt(2 L) (Radford et al., 2.3)."""
    d, f, n, count = config.width, config.ffn, config.layers, itertools.count()

    def matrix(*shape, std):
        return std * jax.random.normal(jax.random.fold_in(key, next(count)), shape)

    def linear(i, o, std):
        return Linear(matrix(n, i, o, std=std), jnp.zeros((n, o)))

    def norm(*stack):
        return LayerNorm(
            jnp.ones((*stack, d)), jnp.zeros((*stack, d)), epsilon=config.epsilon
        )

    std, residual = 0.02, 0.02 * (2 * n) ** -0.5
    blocks = Block(
        Attention(
            *(linear(d, d, to) for to in (std, std, std, residual)), heads=config.heads
        ),
        norm(n),
        MLP(linear(d, f, std), linear(f, d, residual), activation=config.activation),
        norm(n),
    )
    embed = Embed(
        *(
            Embedding(matrix(rows, d, std=std))
            for rows in (config.vocabulary, config.max_positions)
        )
    )
    return Decoder(embed, blocks, norm(), config=config)


PREFIX = r"(?:transformer\.)?"  # there or not, as the checkpoint was saved with a head or without
LAYER = PREFIX + r"h\.(\d+)\."


def rules(config: Config) -> tuple[Rule, ...]:
    """Where each Hugging Face tensor goes. Matrices are stored (in, out), as ours; query, key and value are one tensor."""

    def block(name, *layers, weight="kernel"):
        return tuple(
            Rule(
                rf"{LAYER}{name}\.{theirs}",
                tuple(f"blocks/{layer}/{ours}" for layer in layers),
                1,
            )
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
