"""The Llama family: Llama 2 and 3, TinyLlama, SmolLM2, Mistral without its window, and Qwen2 with its biases.

Touvron et al. 2023 (arXiv 2302.13971, 2307.09288), Dubey et al. 2024 (2407.21783), Yang et al. 2024 (2407.10671): RMSNorm,
rotary positions, grouped-query attention, SwiGLU. The numbers are those of transformers' `LlamaForCausalLM` and
`Qwen2ForCausalLM`. Shape letters are those of `layers.py`.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.checkpoints.placement import Rule
from lora_jax.models.decoder import Block, Decoder, end_tokens
from lora_jax.models.hf_config import fields
from lora_jax.nn.attention import Attention
from lora_jax.nn.layers import ACTIVATIONS, Embedding, Linear, RMSNorm, fold_key


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    layers: int
    width: int
    heads: int
    kv_heads: int  # heads of keys and values
    head_dim: int
    ffn: int
    vocabulary: int
    max_positions: int
    epsilon: float
    activation: str
    rope_frequencies: tuple[
        float, ...
    ]  # of rotary embedding: what each pair of numbers is turned by from a position to the next
    biases: tuple[bool, bool, bool]  # has query, key, value; has output; has the MLP
    tie_embeddings: bool
    eos_ids: tuple[
        int, ...
    ] = ()  # the tokens that end a text; what is trained on ends with the first

    pad, offset = 0, 0  # padding is never seen; the first position's index

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "Config":
        """From the parsed config.json.

        Raises:
            ValueError: fields are missing, or ask for what this family does not have; all of them are named.
        """
        names = dict(
            layers="num_hidden_layers",
            width="hidden_size",
            heads="num_attention_heads",
            ffn="intermediate_size",
            vocabulary="vocab_size",
            max_positions="max_position_embeddings",
            epsilon="rms_norm_eps",
            activation="hidden_act",
        )
        if strange := _strange(config):
            raise ValueError(f"config.json: {'; '.join(strange)}")
        optional = {"kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
        found = fields(
            config,
            names | {ours: name for ours, name in optional.items() if config.get(name)},
        )
        found["max_positions"] = min(found["max_positions"], _window(config))
        heads, width = found["heads"], found["width"]
        kv_heads, head_dim = (
            found.setdefault("kv_heads", heads),
            found.setdefault("head_dim", width // heads),
        )
        qwen = config.get("model_type") == "qwen2"
        attention = config.get("attention_bias", qwen)
        wrong = _wrong(config, heads, kv_heads, head_dim, width)
        if wrong:
            raise ValueError(f"config.json: {'; '.join(wrong)}")
        return cls(
            **found,
            rope_frequencies=_angles(config, head_dim),
            biases=(attention, attention and not qwen, config.get("mlp_bias", False)),
            tie_embeddings=config.get("tie_word_embeddings", False),
            eos_ids=end_tokens(config),
        )


FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
NUMBERS = (
    "rope_theta",
    "sliding_window",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def _strange(config: dict[str, Any]) -> list[str]:
    """Optional fields that are neither absent nor of their kind."""
    every = {**_scaling(config), **config}
    flags = [name for name in FLAGS if not isinstance(every.get(name), bool | None)]
    numbers = {name: every[name] for name in NUMBERS if every.get(name) is not None}
    kinds = {
        name: (int,) if name == "sliding_window" else (int, float) for name in numbers
    }
    wrong = [
        name
        for name, value in numbers.items()
        if not (type(value) in kinds[name] and value > 0)
    ]
    return [f"{name} is {every[name]!r}, expected true or false" for name in flags] + [
        f"{name} is {every[name]!r}, expected a number above 0" for name in wrong
    ]


def _wrong(
    config: dict[str, Any], heads: int, kv_heads: int, head_dim: int, width: int
) -> list[str]:
    wrong = []
    if config["hidden_act"] not in ACTIVATIONS:
        wrong.append(
            f"hidden_act is {config['hidden_act']!r}, expected one of {', '.join(ACTIVATIONS)}"
        )
    if heads % kv_heads:
        wrong.append(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    if not config.get("head_dim") and width % heads:
        wrong.append(
            f"hidden_size {width} is no multiple of num_attention_heads {heads}"
        )
    if head_dim % 2:
        wrong.append(f"head_dim {head_dim} is odd, and rotary embedding turns pairs")
    scaling = _scaling(config)
    if (
        share := scaling.get(
            "partial_rotary_factor", config.get("partial_rotary_factor", 1.0)
        )
    ) != 1.0:
        wrong.append(f"partial_rotary_factor is {share!r}, expected 1.0")
    kind = scaling["rope_type"]
    if kind not in SCALINGS:
        wrong.append(
            f"the rope_type of rope_scaling is {kind!r}, expected one of {', '.join(SCALINGS)}"
        )
    elif absent := [name for name in SCALINGS[kind] if scaling.get(name) is None]:
        wrong.append(f"rope_scaling is {kind!r} without {', '.join(absent)}")
    return wrong


SCALINGS = {  # rope_type -> what has to be said with it
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def _window(config: dict[str, Any]) -> int:
    """Tokens that a token sees, itself included: no text is longer than a sliding window, so it hides nothing."""
    slides = config.get("use_sliding_window", config.get("model_type") == "mistral")
    return (config.get("sliding_window") if slides else None) or config[
        "max_position_embeddings"
    ]


def _scaling(config: dict[str, Any]) -> dict[str, Any]:
    found = (
        config.get("rope_scaling") or config.get("rope_parameters") or {}
    )  # the second is transformers 5's name
    if not isinstance(found, dict):
        raise ValueError(f"config.json: rope_scaling is {found!r}, expected an object")
    return {"rope_type": found.get("type", "default"), **found}


def _angles(config: dict[str, Any], head_dim: int) -> tuple[float, ...]:
    """Base ** (-2 j / K), scaled as config.json asks (Llama 3.1: low frequencies slower by a factor, a ramp between)."""
    scaling = _scaling(config)
    base = config.get("rope_theta") or scaling.get("rope_theta") or 10_000.0
    plain = [base ** (-2 * j / head_dim) for j in range(head_dim // 2)]
    if given := config.get("rope_factors"):  # GGUF has the outcome of the scaling alone
        return tuple(angle / factor for angle, factor in zip(plain, given, strict=True))
    if scaling["rope_type"] == "linear":
        return tuple(angle / scaling["factor"] for angle in plain)
    if scaling["rope_type"] != "llama3":
        return tuple(plain)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    known = scaling["original_max_position_embeddings"]

    def scaled(angle: float) -> float:
        turns = (
            known * angle / (2 * math.pi)
        )  # within the context it was trained on first
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        return share * angle + (1 - share) * angle / scaling["factor"]

    return tuple(map(scaled, plain))


class Embed(nnx.Module):
    """Token embeddings; positions are for attention to turn."""

    def __init__(self, tokens: Embedding):
        self.tokens = tokens

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "#B T"]
    ) -> Float[Array, "B T D"]:
        return self.tokens(tokens)


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, gate: Linear, up: Linear, down: Linear, *, activation: str):
        self.gate, self.up, self.down = gate, up, down
        self.activation = activation

    def __call__(self, x: Float[Array, "B T D"], *, key) -> Float[Array, "B T D"]:
        gate = ACTIVATIONS[self.activation](self.gate(x, fold_key(key, 0)))
        return self.down(gate * self.up(x, fold_key(key, 1)), fold_key(key, 2))


def init(key: Key[Array, ""], config: Config) -> Decoder:
    """A model with random weights: N(0, 0.02²), as transformers draws them."""
    d, f, n, count = config.width, config.ffn, config.layers, itertools.count()
    inner, outer = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def matrix(*shape):
        return 0.02 * jax.random.normal(jax.random.fold_in(key, next(count)), shape)

    def linear(i, o, bias):
        return Linear(matrix(n, i, o), jnp.zeros((n, o)) if bias else None)

    def norm(*stack):
        return RMSNorm(jnp.ones((*stack, d)), epsilon=config.epsilon)

    into, out, mlp = config.biases
    attention = Attention(
        linear(d, inner, into),
        linear(d, outer, into),
        linear(d, outer, into),
        linear(inner, d, out),
        heads=config.heads,
        kv_heads=config.kv_heads,
    )
    gated = MLP(
        linear(d, f, mlp),
        linear(d, f, mlp),
        linear(f, d, mlp),
        activation=config.activation,
    )
    embed = Embed(Embedding(matrix(config.vocabulary, d)))
    head = None if config.tie_embeddings else Linear(matrix(d, config.vocabulary))
    return Decoder(
        embed, Block(attention, norm(n), gated, norm(n)), norm(), head, config=config
    )


LAYER = r"model\.layers\.(\d+)\."


def rules(config: Config) -> tuple[Rule, ...]:
    """Where each Hugging Face tensor goes."""

    def linear(name, path):
        return Rule(LAYER + name + r"\.weight", f"{path}/kernel", 1, True), Rule(
            LAYER + name + r"\.bias", f"{path}/bias", 1
        )

    attention = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return (
        Rule(r"model\.embed_tokens\.weight", "embed/tokens/embedding"),
        Rule(LAYER + r"input_layernorm\.weight", "blocks/attention_norm/scale", 1),
        *(
            rule
            for one, ours in attention.items()
            for rule in linear(rf"self_attn\.{one}_proj", f"blocks/attention/{ours}")
        ),
        Rule(LAYER + r"post_attention_layernorm\.weight", "blocks/mlp_norm/scale", 1),
        *(
            rule
            for ours in ("gate", "up", "down")
            for rule in linear(rf"mlp\.{ours}_proj", f"blocks/mlp/{ours}")
        ),
        Rule(r"model\.norm\.weight", "norm/scale"),
        *(
            ()
            if config.tie_embeddings
            else (Rule(r"lm_head\.weight", "lm_head/kernel", None, True),)
        ),
    )


IGNORE = (
    LAYER
    + r"self_attn\.rotary_emb\.inv_freq",  # older checkpoints: follows from config.json
    r"lm_head\.weight",  # tied: the token embedding again
)
