"""Tensors that say what config.json says, or something else."""

from typing import Any

import numpy as np
import pytest

from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import redundant

CONFIG: dict[str, Any] = dict(hidden_size=16, num_attention_heads=2)
ROPE = "model.layers.1.self_attn.rotary_emb.inv_freq"
PLAIN = np.array([1, 0.1, 0.01, 0.001])
LINEAR = {"rope_scaling": {"type": "linear", "factor": 4.0}}


def check(name: str, array: np.ndarray, **changes: Any) -> None:
    tensor = Tensor("model.safetensors", array.shape, array.dtype, lambda: array)
    redundant.check_buffers("my-model", {name: tensor}, CONFIG | changes)


@pytest.mark.parametrize(
    "name, array, changes",
    [
        (ROPE, PLAIN, {}),
        (ROPE, PLAIN.astype(np.float16), {}),
        (ROPE, PLAIN, LINEAR),
        (ROPE, PLAIN / 4, LINEAR),
        (
            ROPE,
            np.array([1, 500_000**-0.25, 500_000**-0.5, 500_000**-0.75]),
            {"rope_theta": 5e5},
        ),
        ("transformer.h.0.attn.bias", np.tril(np.ones((1, 1, 5, 5), bool)), {}),
        ("h.3.attn.bias", np.tril(np.ones((1, 1, 5, 5), np.float32)), {}),
        ("bert.embeddings.position_ids", np.arange(7)[None], {}),
    ],
)
def test_what_agrees_with_the_config(name, array, changes):
    check(name, array, **changes)


@pytest.mark.parametrize(
    "name, array, changes, text",
    [
        (
            ROPE,
            PLAIN,
            {"rope_theta": 5e5},
            r"expected the powers of rope_theta 500000, which begin with "
            r"\(1.0, 0.037\d*\), got \(1.0, 0.1\)",
        ),
        (ROPE, PLAIN / 2, LINEAR, "expected the powers of rope_theta 10000"),
        (ROPE, PLAIN[:3], {}, "expected one for each pair of 8 numbers of a head"),
        (
            "h.0.attn.bias",
            np.ones((1, 1, 5, 5)),
            {},
            "expected ones on and below the diagonal, and zeros above",
        ),
        ("h.0.attn.bias", np.ones(15), {}, "expected ones on and below the diagonal"),
        ("embeddings.position_ids", np.arange(7)[::-1], {}, "expected 0, 1, 2, ..."),
    ],
)
def test_what_differs_is_named(name, array, changes, text):
    message = rf"my-model: the checkpoint and config.json disagree:\n  {name} .*{text}"
    with pytest.raises(ValueError, match=message):
        check(name, array, **changes)
