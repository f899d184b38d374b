"""Tiny random models with tokenizers of letters and of bytes, for smoke runs and tests.

Nothing is read or downloaded.
"""

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

# As small as the layers allow: smoke runs compile more than they compute.
BERT_CONFIG = bert.Config(
    kind="bert",
    layers=2,
    width=16,
    heads=2,
    ffn=32,
    vocabulary=80,
    max_positions=64,
    segments=2,
    epsilon=1e-12,
    activation="gelu",
    pad=0,
)
LLAMA_CONFIG = llama.Config(
    layers=2,
    width=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn=48,
    vocabulary=257,  # the bytes and the end token
    max_positions=1024,
    epsilon=1e-6,
    activation="silu",
    rope_frequencies=(1.0, 0.1, 0.01, 0.001),  # 10,000 ** (-2 j / 8)
    biases=(False, False, False),  # of query, key and value; of the output; of the MLP
    tie_embeddings=True,
    eos_ids=(256,),
)
END_OF_TEXT = "<|endoftext|>"


def load_bert(
    *, labels: int = 2, key: jax.Array | None = None
) -> tuple[bert.Encoder, Tokenizer]:
    """Return BERT with random weights and a tokenizer of letters and digits.

    The weights are drawn from `key`, seed 0 by default.
    """
    key = jax.random.key(0) if key is None else key
    model = bert.init(key, BERT_CONFIG, labels=labels)

    # WordPiece marks a token inside a word with ##, so that each letter is there twice.
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    first_letters = [*string.ascii_lowercase, *string.digits]
    inner_letters = [f"##{letter}" for letter in first_letters]
    ids = _number([*special, *first_letters, *inner_letters])
    return model, Tokenizer.from_str(BertWordPieceTokenizer(ids).to_str())


def load_llama(
    *, labels: int = 0, key: jax.Array | None = None
) -> tuple[Decoder, Tokenizer]:
    """Return Llama with random weights and a tokenizer of bytes and an end token.

    The weights are drawn from `key`, seed 0 by default. `labels` is ignored: a language
    model has no classification head.
    """
    key = jax.random.key(0) if key is None else key
    model = llama.init(key, LLAMA_CONFIG)

    # Byte-level BPE writes each of the 256 bytes as a letter that can be printed.
    byte_letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = _number([*byte_letters, END_OF_TEXT])
    tokenizer = Tokenizer(models.BPE(ids, []))  # no merges: one token is one byte
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return model, tokenizer


# The names that `load` knows.
MODELS = {"tiny": load_bert, "tiny-llama": load_llama}


def _number(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
