"""GPT-2 language models, and GPT-3's, which have the same layers at another size.

Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners"); Brown et
al. 2020 (arXiv 2005.14165), whose layers of sparse attention are dense here. The
numbers are those of transformers' `GPT2LMHeadModel`. Shape letters are those of
`nn/layers.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.checkpoints.placement import Rule
from lora_jax.models import hf_config, neutral
from lora_jax.models.decoder import Block, Decoder
from lora_jax.models.initial_weights import STD, matrix_drawer
from lora_jax.models.sizes import Size
from lora_jax.nn.attention import Attention
from lora_jax.nn.layers import ACTIVATIONS, MLP, Embedding, LayerNorm, Linear

FIELDS = {  # our name -> the name in config.json
    "layers": "n_layer",
    "width": "n_embd",
    "heads": "n_head",
    "vocabulary": "vocab_size",
    "max_positions": "n_positions",
    "epsilon": "layer_norm_epsilon",
    "activation": "activation_function",
}
# transformers reads these names too.
OTHER_NAMES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    layers: int
    width: int
    heads: int
    ffn: int  # the width inside the MLP
    vocabulary: int
    max_positions: int  # rows of the table of positions
    epsilon: float
    activation: str
    # The tokens that end a text; texts that are trained on end with the first of them.
    eos_ids: tuple[int, ...] = ()

    pad = 0  # padding is never attended to, so that any token will do
    offset = 0  # the position of the first token
    rope_frequencies = None  # positions are embedded, not rotated

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Config":
        """Return the configuration in a parsed config.json.

        `n_inner`, if absent or null, is four times the width.

        Raises:
            ValueError: fields are missing, or ask for something that this family does
                not have; the message lists them all.
        """
        config = _with_own_names(config)
        # Fields that are missing are reported before fields that ask for too much.
        names = dict(FIELDS)
        if config.get("n_inner") is not None:
            names["ffn"] = "n_inner"
        values = hf_config.read_fields(config, names)
        values.setdefault("ffn", 4 * values["width"])
        eos_ids = hf_config.read_eos_ids(config)
        problems = neutral.neutral_problems(config, neutral.GPT2)
        problems += hf_config.choice_problems(
            "activation_function", values["activation"], ACTIVATIONS
        )
        problems += hf_config.multiple_problems(config, "n_embd", "n_head")
        hf_config.raise_problems(problems)
        return cls(**values, eos_ids=eos_ids)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: as many as heads of queries."""
        return self.heads

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.width // self.heads


def _with_own_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields under GPT-2's own names; two that differ are an error."""
    renamed = dict(config)
    problems = []
    for other, name in OTHER_NAMES.items():
        if other not in config:
            continue
        renamed.setdefault(name, config[other])
        if renamed[name] != config[other]:
            problems.append(
                f"{name} is {renamed[name]!r} and {other} is {config[other]!r}, "
                "expected one number"
            )
    hf_config.raise_problems(problems)
    return renamed


class Embed(nnx.Module):
    """Token and position embeddings, summed."""

    def __init__(self, tokens: Embedding, positions: Embedding):
        self.tokens = tokens
        self.positions = positions

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "#B T"]
    ) -> Float[Array, "B T D"]:
        return self.tokens(tokens) + self.positions(positions)


def init(key: Key[Array, ""], config: Config) -> Decoder:
    """Return a model with random weights.

    Matrices are N(0, 0.02²); those that add to the residual stream have a standard
    deviation smaller by sqrt(2 L) (Radford et al. 2019, section 2.3).
    """
    draw = matrix_drawer(key)
    width, ffn, layers = config.width, config.ffn, config.layers
    residual_std = STD * (2 * layers) ** -0.5

    def linear(inputs: int, outputs: int, std: float = STD) -> Linear:
        kernel = draw(layers, inputs, outputs, std=std)
        return Linear(kernel, jnp.zeros((layers, outputs)))

    def norm(*stack: int) -> LayerNorm:
        shape = (*stack, width)
        return LayerNorm(jnp.ones(shape), jnp.zeros(shape), epsilon=config.epsilon)

    # The order of these calls decides which key draws which matrix. The leaves of the
    # blocks are stacked: [L, ..].
    attention = Attention(
        query=linear(width, width),
        key=linear(width, width),
        value=linear(width, width),
        output=linear(width, width, residual_std),
        heads=config.heads,
    )
    mlp = MLP(
        up=linear(width, ffn),
        down=linear(ffn, width, residual_std),
        activation=config.activation,
    )
    blocks = Block(attention, norm(layers), mlp, norm(layers))
    tokens = Embedding(draw(config.vocabulary, width))
    positions = Embedding(draw(config.max_positions, width))
    return Decoder(Embed(tokens, positions), blocks, norm(), config=config)


# A checkpoint saved without a head has no prefix.
PREFIX = r"(?:transformer\.)?"
LAYER = PREFIX + r"h\.(\d+)\."


SIZES = (
    Size("n_layer", LAYER + ".+"),
    Size("n_embd", PREFIX + r"wte\.weight", axis=1),
    Size("vocab_size", PREFIX + r"wte\.weight", axis=0),
    Size("n_positions", PREFIX + r"wpe\.weight", axis=0),
    Size("n_inner", LAYER + r"mlp\.c_fc\.weight", axis=1),
    Size("n_head"),
)


def rules(config: Config) -> tuple[Rule, ...]:
    """Return where each tensor of a Hugging Face checkpoint goes.

    Its matrices are stored [in, out] as ours are. Query, key and value are one tensor.
    """
    # ln_1 is the norm before attention, ln_2 the one before the MLP, ln_f the last one.
    return (
        Rule(PREFIX + r"wte\.weight", "embed/tokens/embedding"),
        Rule(PREFIX + r"wpe\.weight", "embed/positions/embedding"),
        *_block_rules("ln_1", "attention_norm", weight="scale"),
        *_block_rules(
            r"attn\.c_attn", "attention/query", "attention/key", "attention/value"
        ),
        *_block_rules(r"attn\.c_proj", "attention/output"),
        *_block_rules("ln_2", "mlp_norm", weight="scale"),
        *_block_rules(r"mlp\.c_fc", "mlp/up"),
        *_block_rules(r"mlp\.c_proj", "mlp/down"),
        Rule(PREFIX + r"ln_f\.weight", "norm/scale"),
        Rule(PREFIX + r"ln_f\.bias", "norm/bias"),
    )


def _block_rules(name: str, *paths: str, weight: str = "kernel") -> tuple[Rule, Rule]:
    """Return the rules of a layer's weight and bias.

    A fused layer has several paths, each of which gets its share of the columns.
    """
    weight_paths = tuple(f"blocks/{path}/{weight}" for path in paths)
    bias_paths = tuple(f"blocks/{path}/bias" for path in paths)
    return (
        Rule(rf"{LAYER}{name}\.weight", weight_paths, layer=1),
        Rule(rf"{LAYER}{name}\.bias", bias_paths, layer=1),
    )


IGNORE = (  # tensors that are no parameters
    LAYER + r"attn\.(?:masked_)?bias",  # the causal mask and its value
    r"lm_head\.weight",  # tied: the token embedding again
)
