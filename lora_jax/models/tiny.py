"""A tiny random BERT and its letter-by-letter tokenizer, for smoke runs and tests: nothing is read or fetched."""

import string

import jax
from tokenizers import BertWordPieceTokenizer, Tokenizer

from lora_jax.models import bert

CONFIG = bert.Config(
    kind="bert", layers=2, width=16, heads=2, ffn=32, vocabulary=80, positions=64, segments=2, epsilon=1e-12,
    activation="gelu", pad=0,
)  # fmt: skip


def load(*, labels: int = 2, key: jax.Array | None = None) -> tuple[bert.Encoder, Tokenizer]:
    """The model with random weights (seed 0 without a key) and a tokenizer of letters, digits and special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertWordPieceTokenizer({token: index for index, token in enumerate(vocabulary)})
    key = jax.random.key(0) if key is None else key
    return bert.init(key, CONFIG, labels=labels), Tokenizer.from_str(tokenizer.to_str())
