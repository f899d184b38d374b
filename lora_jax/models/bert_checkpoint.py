"""Where the tensors of a BERT or RoBERTa checkpoint of Hugging Face go in an `Encoder`.

A rule's pattern matches the whole name of a tensor; `placement.load` reports tensors
that no rule takes, and leaves that no tensor fills.
"""

from collections.abc import Mapping
from typing import Any

from lora_jax.checkpoints.placement import Rule
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models.bert_config import Config
from lora_jax.models.sizes import Size

# A checkpoint saved without a head has no prefix.
PREFIX = r"(?:(?:bert|roberta)\.)?"
LAYER = PREFIX + r"encoder\.layer\.(\d+)\."
TABLE = PREFIX + r"embeddings\.{}_embeddings\.weight"
SIZES = (
    Size("num_hidden_layers", LAYER + ".+"),
    Size("hidden_size", TABLE.format("word"), axis=1),
    Size("vocab_size", TABLE.format("word"), axis=0),
    Size("max_position_embeddings", TABLE.format("position"), axis=0),
    Size("type_vocab_size", TABLE.format("token_type"), axis=0),
    Size("intermediate_size", LAYER + r"intermediate\.dense\.weight", axis=0),
    Size("num_attention_heads"),
    # A token of the vocabulary, and in RoBERTa the position before the first.
    Size("pad_token_id"),
)
# The checkpoint's name of each table of embeddings -> ours.
TABLES = {"word": "tokens", "position": "positions", "token_type": "segments"}
# The layer of a classifier's head that gives the logits.
OUTPUTS = {"bert": "classifier", "roberta": "classifier.out_proj"}
# Models whose `classifier` is of single tokens, or of choices.
OTHER_CLASSIFIERS = ("ForTokenClassification", "ForMultipleChoice")


def rules(config: Config) -> tuple[Rule, ...]:
    """Return where each tensor of a Hugging Face checkpoint goes."""
    tables = []
    for name, path in TABLES.items():
        tables.append(Rule(TABLE.format(name), f"embed/{path}/embedding"))

    # Group 1 of `LAYER` is the index of the layer; group 2 is the name of a projection.
    attention = LAYER + r"attention\."
    return (
        *tables,
        *_norm_rules(PREFIX + "embeddings", "embed/norm"),
        *_linear_rules(
            attention + r"self\.(query|key|value)", r"blocks/attention/\2", layer=1
        ),
        *_linear_rules(
            attention + r"output\.dense", "blocks/attention/output", layer=1
        ),
        *_norm_rules(attention + "output", "blocks/attention_norm", layer=1),
        *_linear_rules(LAYER + r"intermediate\.dense", "blocks/mlp/up", layer=1),
        *_linear_rules(LAYER + r"output\.dense", "blocks/mlp/down", layer=1),
        *_norm_rules(LAYER + "output", "blocks/mlp_norm", layer=1),
        *_head_rules(config),
    )


def _head_rules(config: Config) -> tuple[Rule, ...]:
    if config.kind == "roberta":
        return (
            *_linear_rules(r"classifier\.dense", "head/dense"),
            *_linear_rules(r"classifier\.out_proj", "head/output"),
        )
    return (
        *_linear_rules(PREFIX + r"pooler\.dense", "pooler"),
        *_linear_rules("classifier", "head"),
    )


def _linear_rules(name: str, path: str, layer: int | None = None) -> tuple[Rule, Rule]:
    return (
        Rule(name + r"\.weight", f"{path}/kernel", layer, transpose=True),
        Rule(name + r"\.bias", f"{path}/bias", layer),
    )


def _norm_rules(name: str, path: str, layer: int | None = None) -> tuple[Rule, Rule]:
    # Older checkpoints call scale and bias gamma and beta.
    return (
        Rule(name + r"\.LayerNorm\.(?:weight|gamma)", f"{path}/scale", layer),
        Rule(name + r"\.LayerNorm\.(?:bias|beta)", f"{path}/bias", layer),
    )


IGNORE = (  # tensors that a classifier has no use for
    PREFIX + r"embeddings\.position_ids",
    r"(?:cls|lm_head)\..*",  # the heads of pretraining
    r"qa_outputs\..*",  # the head of question answering
    PREFIX + r"pooler\.dense\.(?:weight|bias)",  # RoBERTa's head replaces its pooler
)


def without_other_heads(
    tensors: Mapping[str, Tensor],
    hf_config: Mapping[str, Any],
    config: Config,
    *,
    labels: int,
) -> dict[str, Tensor]:
    """Return the tensors without a head that belongs to another task.

    That is the head of a model of tokens or of choices, or the output layer of a
    classifier of another number of classes: transformers draws these anew as well.
    """
    other: set[str] = set()
    architectures = str(hf_config.get("architectures"))
    if any(name in architectures for name in OTHER_CLASSIFIERS):
        other = {"classifier.weight", "classifier.bias"}
    output = OUTPUTS[config.kind]
    weight = tensors.get(f"{output}.weight")
    bias = tensors.get(f"{output}.bias")
    if weight is not None and bias is not None:
        classes = bias.shape[0] if bias.shape else 0
        # Of another width it is no head of this model, which is an error.
        if classes != labels and weight.shape == (classes, config.width):
            other |= {f"{output}.weight", f"{output}.bias"}
    return {name: tensor for name, tensor in tensors.items() if name not in other}
