"""The Llama family: Llama 2 and 3, TinyLlama, SmolLM2, Mistral, and Qwen2.

Touvron et al. 2023 (arXiv 2302.13971, 2307.09288), Dubey et al. 2024 (2407.21783),
Yang et al. 2024 (2407.10671): RMSNorm, rotary positions, grouped-query attention,
SwiGLU. The numbers are those of transformers' `LlamaForCausalLM` and
`Qwen2ForCausalLM`; Mistral is used without its sliding window. Shape letters are those
of `nn/layers.py`.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from lora_jax.checkpoints.placement import Rule
from lora_jax.models.decoder import Block, Decoder
from lora_jax.models.initial_weights import matrix_drawer
from lora_jax.models.llama_config import Config
from lora_jax.models.sizes import Size
from lora_jax.nn.attention import Attention
from lora_jax.nn.layers import ACTIVATIONS, Embedding, Linear, RMSNorm, fold_key

__all__ = ["IGNORE", "MLP", "SIZES", "Config", "Embed", "init", "rules"]


class Embed(nnx.Module):
    """Token embeddings. Positions are not embedded: attention rotates by them."""

    def __init__(self, tokens: Embedding):
        self.tokens = tokens

    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "#B T"]
    ) -> Float[Array, "B T D"]:
        return self.tokens(tokens)


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, gate: Linear, up: Linear, down: Linear, *, activation: str):
        self.gate = gate
        self.up = up
        self.down = down
        self.activation = activation

    def __call__(self, x: Float[Array, "B T D"], *, key: Any) -> Float[Array, "B T D"]:
        activate = ACTIVATIONS[self.activation]
        gate = activate(self.gate(x, fold_key(key, 0)))
        hidden = gate * self.up(x, fold_key(key, 1))
        return self.down(hidden, fold_key(key, 2))


def init(key: Key[Array, ""], config: Config) -> Decoder:
    """Return a model with random weights: N(0, 0.02²), as transformers draws them."""
    draw = matrix_drawer(key)
    width, ffn, layers = config.width, config.ffn, config.layers
    query_width = config.heads * config.head_dim
    key_width = config.kv_heads * config.head_dim
    input_bias, output_bias, mlp_bias = config.biases

    def linear(inputs: int, outputs: int, has_bias: bool) -> Linear:
        bias = jnp.zeros((layers, outputs)) if has_bias else None
        return Linear(draw(layers, inputs, outputs), bias)

    def norm(*stack: int) -> RMSNorm:
        return RMSNorm(jnp.ones((*stack, width)), epsilon=config.epsilon)

    # The order of these calls decides which key draws which matrix. The leaves of the
    # blocks are stacked: [L, ..].
    attention = Attention(
        query=linear(width, query_width, input_bias),
        key=linear(width, key_width, input_bias),
        value=linear(width, key_width, input_bias),
        output=linear(query_width, width, output_bias),
        heads=config.heads,
        kv_heads=config.kv_heads,
    )
    mlp = MLP(
        gate=linear(width, ffn, mlp_bias),
        up=linear(width, ffn, mlp_bias),
        down=linear(ffn, width, mlp_bias),
        activation=config.activation,
    )
    blocks = Block(attention, norm(layers), mlp, norm(layers))
    embed = Embed(Embedding(draw(config.vocabulary, width)))
    head = None
    if not config.tie_embeddings:
        head = Linear(draw(width, config.vocabulary))
    return Decoder(embed, blocks, norm(), head, config=config)


LAYER = r"model\.layers\.(\d+)\."
LINEAR_LAYERS = {  # the name in a block of the checkpoint -> the path in ours
    r"self_attn\.q_proj": "attention/query",
    r"self_attn\.k_proj": "attention/key",
    r"self_attn\.v_proj": "attention/value",
    r"self_attn\.o_proj": "attention/output",
    r"mlp\.gate_proj": "mlp/gate",
    r"mlp\.up_proj": "mlp/up",
    r"mlp\.down_proj": "mlp/down",
}
NORMS = {  # likewise; RMSNorm has a scale only
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
}


SIZES = (
    Size("num_hidden_layers", LAYER + ".+"),
    Size("hidden_size", r"model\.embed_tokens\.weight", axis=1),
    Size("vocab_size", r"model\.embed_tokens\.weight", axis=0),
    Size("intermediate_size", LAYER + r"mlp\.up_proj\.weight", axis=0),
    # Heads and their width are the sizes of query and key together.
    Size("num_attention_heads"),
    Size("num_key_value_heads"),
    Size("head_dim"),
)


def rules(config: Config) -> tuple[Rule, ...]:
    """Return where each tensor of a Hugging Face checkpoint goes."""
    placed = [
        Rule(r"model\.embed_tokens\.weight", "embed/tokens/embedding"),
        Rule(r"model\.norm\.weight", "norm/scale"),
    ]
    # Group 1 of `LAYER` is the index of the layer.
    for name, path in NORMS.items():
        pattern = rf"{LAYER}{name}\.weight"
        placed.append(Rule(pattern, f"blocks/{path}/scale", layer=1))
    for name, path in LINEAR_LAYERS.items():
        weight = rf"{LAYER}{name}\.weight"
        bias = rf"{LAYER}{name}\.bias"
        # Torch stores a weight as [out, in], a kernel here is [in, out].
        placed.append(Rule(weight, f"blocks/{path}/kernel", layer=1, transpose=True))
        # A rule that finds no bias does nothing.
        placed.append(Rule(bias, f"blocks/{path}/bias", layer=1))
    if not config.tie_embeddings:
        placed.append(Rule(r"lm_head\.weight", "lm_head/kernel", transpose=True))
    return tuple(placed)


IGNORE = (  # tensors that are no parameters
    # Older checkpoints: it follows from config.json.
    LAYER + r"self_attn\.rotary_emb\.inv_freq",
    r"lm_head\.weight",  # tied: the token embedding again
)
