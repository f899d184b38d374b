"""Tiny random models with tokenizers of letters and of bytes, for smoke runs and tests: nothing is read or fetched."""

import string

import jax
from tokenizers import (
    BertWordPieceTokenizer,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
)

from lora_jax.models import bert, llama
from lora_jax.models.decoder import Decoder

CONFIG = bert.Config(
    kind="bert",
    layers=2,
    width=16,
    heads=2,
    ffn=32,
    vocabulary=80,
    positions=64,
    segments=2,
    epsilon=1e-12,
    activation="gelu",
    pad=0,
)
LLAMA = llama.Config(
    layers=2,
    width=32,
    heads=4,
    groups=2,
    head_width=8,
    ffn=48,
    vocabulary=257,
    positions=1024,
    epsilon=1e-6,
    activation="silu",
    angles=(1.0, 0.1, 0.01, 0.001),
    biases=(False, False, False),
    tied=True,
    ends=(256,),
)


def load(
    *, labels: int = 2, key: jax.Array | None = None
) -> tuple[bert.Encoder, Tokenizer]:
    """BERT with random weights (seed 0 without a key) and a tokenizer of letters, digits and special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertWordPieceTokenizer(
        {token: index for index, token in enumerate(vocabulary)}
    )
    key = jax.random.key(0) if key is None else key
    return bert.init(key, CONFIG, labels=labels), Tokenizer.from_str(tokenizer.to_str())


def load_llama(*, key: jax.Array | None = None) -> tuple[Decoder, Tokenizer]:
    """Llama with random weights (seed 0 without a key) and a tokenizer of bytes and an end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate([*letters, "<|endoftext|>"])},
            [],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return llama.init(jax.random.key(0) if key is None else key, LLAMA), tokenizer
