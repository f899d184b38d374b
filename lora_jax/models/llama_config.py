"""The configuration of the Llama family, read from a Hugging Face config.json.

Sizes come first; what config.json may ask for beside them (scaled rotary positions, a
sliding window, biases) is either implemented or rejected by name.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_jax.models import hf_config, neutral
from lora_jax.models.rope import rope_frequencies, rope_problems
from lora_jax.models.window import read_window, window_problems
from lora_jax.nn.layers import ACTIVATIONS

FIELDS = {  # our name -> the name in config.json
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
    "max_positions": "max_position_embeddings",
    "epsilon": "rms_norm_eps",
    "activation": "hidden_act",
}
OPTIONAL_FIELDS = {"kv_heads": "num_key_value_heads", "head_dim": "head_dim"}

# Optional fields that are true or false.
FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    layers: int
    width: int
    heads: int
    kv_heads: int  # heads of keys and values
    head_dim: int
    ffn: int  # the width inside the MLP
    vocabulary: int
    max_positions: int
    epsilon: float
    activation: str
    # Radians that each pair of a head's numbers turns by from a position to the next.
    rope_frequencies: tuple[float, ...]
    # Whether query, key and value have a bias; whether the output has; the MLP.
    biases: tuple[bool, bool, bool]
    tie_embeddings: bool
    # The tokens that end a text; texts that are trained on end with the first of them.
    eos_ids: tuple[int, ...] = ()

    pad = 0  # padding is never attended to, so that any token will do
    offset = 0  # the position of the first token

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Config":
        """Return the configuration in a parsed config.json.

        Raises:
            ValueError: fields are missing, or ask for something that this family does
                not have; the message lists them all.
        """
        hf_config.raise_problems(_optional_problems(config))
        names = dict(FIELDS)
        for our_name, name in OPTIONAL_FIELDS.items():
            if config.get(name) is not None:
                names[our_name] = name
        values = hf_config.read_fields(config, names)
        # Older models have no fields for these two.
        values.setdefault("kv_heads", values["heads"])
        values.setdefault("head_dim", values["width"] // values["heads"])
        # Texts are kept as short as a sliding window, so that it hides nothing.
        window = read_window(config, values["layers"])
        if window is not None:
            values["max_positions"] = min(values["max_positions"], window)
        hf_config.raise_problems(_size_problems(config, values))
        return cls(
            **values,
            rope_frequencies=rope_frequencies(config, values["head_dim"]),
            biases=_biases(config),
            tie_embeddings=hf_config.read_flag(config, "tie_word_embeddings", False),
            eos_ids=hf_config.read_eos_ids(config),
        )


def _optional_problems(config: Mapping[str, Any]) -> list[str]:
    """Return messages for optional fields that are neither absent nor of their kind."""
    problems = []
    for name in FLAGS:
        value = config.get(name)
        if not isinstance(value, bool | None):
            problems.append(f"{name} is {value!r}, expected true or false")
    return problems + window_problems(config) + rope_problems(config)


def _size_problems(config: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    activation, heads = values["activation"], values["heads"]
    kv_heads, head_dim = values["kv_heads"], values["head_dim"]
    problems = hf_config.choice_problems("hidden_act", activation, ACTIVATIONS)
    if heads % kv_heads:
        problems.append(
            f"num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    if not config.get("head_dim"):
        problems += hf_config.multiple_problems(
            config, "hidden_size", "num_attention_heads"
        )
    if head_dim % 2:
        problems.append(f"head_dim {head_dim} is odd, and rotary embedding turns pairs")
    problems += neutral.neutral_problems(config, neutral.LLAMA)
    return problems + neutral.scale_problems(config, head_dim)


def _biases(config: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    # Qwen2 has biases of query, key and value, but none of the attention's output.
    is_qwen = config.get("model_type") == "qwen2"
    attention = hf_config.read_flag(config, "attention_bias", is_qwen)
    output = attention and not is_qwen
    return attention, output, hf_config.read_flag(config, "mlp_bias", False)
