"""The configuration of BERT and RoBERTa, read from a Hugging Face config.json."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lora_jax.models import hf_config, neutral
from lora_jax.nn.layers import ACTIVATIONS

# Our name of each size or option -> its name in config.json.
FIELDS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
    "max_positions": "max_position_embeddings",
    "segments": "type_vocab_size",
    "epsilon": "layer_norm_eps",
    "activation": "hidden_act",
    "pad": "pad_token_id",
}


class Config(NamedTuple):
    """What of a Hugging Face config.json shapes the model."""

    kind: str  # "bert" or "roberta"
    layers: int
    width: int
    heads: int
    ffn: int  # the width inside the MLP
    vocabulary: int
    max_positions: int  # rows of the table of positions
    segments: int
    epsilon: float
    activation: str
    pad: int  # the token id of padding

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Config":
        """Return the configuration in a parsed config.json.

        Raises:
            ValueError: fields are missing, or ask for something that this family does
                not have; the message lists them all.
        """
        values = hf_config.read_fields(config, FIELDS)
        problems = hf_config.choice_problems(
            "hidden_act", values["activation"], ACTIVATIONS
        )
        problems += neutral.neutral_problems(config, neutral.ENCODER)
        problems += hf_config.multiple_problems(
            config, "hidden_size", "num_attention_heads"
        )
        hf_config.raise_problems(problems)
        return cls(kind=config["model_type"], **values)

    @property
    def offset(self) -> int:
        """The position of the first token.

        RoBERTa numbers its positions from its padding index + 1.
        """
        return self.pad + 1 if self.kind == "roberta" else 0
