"""Small language models for tests, in whose leaves and adapters each number counts."""

import functools
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lora_jax import methods, tree
from lora_jax.models import gpt2, llama
from lora_jax.models.decoder import Decoder

GPT2 = gpt2.Config(
    layers=2,
    width=16,
    heads=2,
    ffn=64,
    vocabulary=50,
    max_positions=24,
    epsilon=1e-5,
    activation="gelu_new",
)
LLAMA = llama.Config(
    layers=2,
    width=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    ffn=24,
    vocabulary=50,
    max_positions=24,
    epsilon=1e-5,
    activation="silu",
    rope_frequencies=(1.0, 0.01),
    biases=(False, False, False),
    tie_embeddings=False,
)
# Real tokens of the three rows of `token_rows`: all of them, or fewer.
FULL = np.full(3, 10)
LENGTH = np.array([4, 10, 1])

logits = jax.jit(Decoder.__call__, static_argnames="rate")


def token_rows() -> np.ndarray:
    """Three rows of ten tokens."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 50, (3, 10))
    return tokens.astype(np.int32)


def shapes(config: gpt2.Config | llama.Config) -> Any:
    """The model of a configuration, every leaf a shape."""
    family = gpt2 if isinstance(config, gpt2.Config) else llama
    return jax.eval_shape(partial(family.init, config=config), jax.random.key(0))


def random_model(config: gpt2.Config | llama.Config) -> Decoder:
    """A model whose leaves are N(0, 0.3²), those of scales around 1."""
    model = shapes(config)
    rng = np.random.default_rng(0)
    leaves = {}
    for path, leaf in tree.leaves(model).items():
        mean = 1 if path.endswith("scale") else 0
        leaves[path] = jnp.float32(mean + 0.3 * rng.normal(size=leaf.shape))
    return tree.replace(model, leaves)


@functools.cache
def small_gpt2() -> Decoder:
    return random_model(GPT2)


@functools.cache
def small_llama(**changes: Any) -> Decoder:
    return random_model(LLAMA._replace(**changes))


def with_adapters(base: Decoder, targets: str, *, dropout: float = 0.0) -> Any:
    """The model with LoRA of rank 4 whose A and B are both random."""
    method = methods.lora(targets, 4, 8.0, dropout=dropout)
    model = jax.jit(method.adapt)(jax.random.key(0), base)
    rng = np.random.default_rng(2)
    leaves = {}
    for path, leaf in tree.find(model, r"lora_[ab]$").items():
        leaves[path] = jnp.float32(0.3 * rng.normal(size=leaf.shape))
    return tree.replace(model, leaves)


def error(actual: Any, expected: Any) -> float:
    """max |actual - expected| / max |expected|."""
    largest = np.abs(expected).max()
    difference = np.abs(actual - expected).max()
    return float(difference / largest)


def numbered(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensors of these shapes, in which no number occurs twice."""
    tensors = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + int(np.prod(shape))
        tensors[name] = np.arange(start, stop, dtype=np.float32).reshape(shape)
        start = stop
    return tensors
