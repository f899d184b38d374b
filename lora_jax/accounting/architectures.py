"""The sizes of the transformers that the LoRA paper adapts, and their abstract models.

Sizes are enough to count parameters and bytes: an abstract model has shapes in place
of weights, so that GPT-3 175B takes no memory.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax

from lora_jax import tree
from lora_jax.models import bert, gpt2


class Architecture(NamedTuple):
    """The sizes of a transformer; 0 for a table its family does not have."""

    name: str
    family: str  # "bert", "roberta", "deberta" or "gpt2"
    layers: int
    width: int
    heads: int
    ffn: int  # width of the MLP's hidden layer
    vocabulary: int
    max_positions: int  # rows of the table of positions; DeBERTa's are relative
    segments: int


# Rows: name, family, layers, width, heads, ffn, vocabulary, positions, segments.
_SIZES = (
    Architecture("minilm-l6", "bert", 6, 384, 12, 1536, 30522, 512, 2),
    Architecture("roberta-base", "roberta", 12, 768, 12, 3072, 50265, 514, 1),
    Architecture("roberta-large", "roberta", 24, 1024, 16, 4096, 50265, 514, 1),
    Architecture("deberta-v2-xxl", "deberta", 48, 1536, 24, 6144, 128100, 512, 0),
    Architecture("gpt2", "gpt2", 12, 768, 12, 3072, 50257, 1024, 0),
    Architecture("gpt2-medium", "gpt2", 24, 1024, 16, 4096, 50257, 1024, 0),
    Architecture("gpt2-large", "gpt2", 36, 1280, 20, 5120, 50257, 1024, 0),
    Architecture("gpt3-175b", "gpt2", 96, 12288, 96, 49152, 50257, 2048, 0),
)
ARCHITECTURES = {sizes.name: sizes for sizes in _SIZES}
"""The architectures by name."""

# The families the library has models of; DeBERTa is counted by formula alone.
MODEL_FAMILIES = ("bert", "roberta", "gpt2")


def find_architecture(architecture: Architecture | str) -> Architecture:
    """Return the architecture of a name; an architecture is returned as it is.

    Raises:
        ValueError: there is none of that name; lists the nearest.
    """
    if isinstance(architecture, Architecture):
        return architecture
    if architecture not in ARCHITECTURES:
        candidates = tree.near(architecture, list(ARCHITECTURES))
        raise ValueError(
            f"architecture: expected one of {candidates}, got {architecture!r}"
        )
    return ARCHITECTURES[architecture]


@cache
def abstract_model(sizes: Architecture) -> Any:
    """Return the model of an architecture, every leaf a shape.

    An encoder has a head for two classes.

    Raises:
        ValueError: the library has no model of the family.
    """
    if sizes.family not in MODEL_FAMILIES:
        raise ValueError(
            f"family: expected one of {', '.join(MODEL_FAMILIES)}, "
            f"got {sizes.family} ({sizes.name})"
        )
    shared: dict[str, Any] = {
        "layers": sizes.layers,
        "width": sizes.width,
        "heads": sizes.heads,
        "ffn": sizes.ffn,
        "vocabulary": sizes.vocabulary,
        "max_positions": sizes.max_positions,
        # Neither changes a shape.
        "epsilon": 1e-5,
        "activation": "gelu",
    }
    # GPT-2 is a decoder without a head of its own; the others have an encoder's.
    if sizes.family == "gpt2":
        init = partial(gpt2.init, config=gpt2.Config(**shared))
    else:
        config = bert.Config(
            kind=sizes.family, segments=sizes.segments, pad=0, **shared
        )
        init = partial(bert.init, config=config, labels=2)
    # Traced and not run: no weight is drawn.
    return jax.eval_shape(init, jax.random.key(0))
