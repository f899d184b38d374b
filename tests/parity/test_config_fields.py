"""Fields of config.json mean what they mean in transformers, their defaults too."""

import importlib
from typing import Any

import numpy as np
import pytest

from lora_jax.models import hf_config, llama, window
from lora_jax.nn.layers import ACTIVATIONS
from tests.models.test_llama_config import HF

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
activations = pytest.importorskip("transformers.activations")

LINEAR = {"type": "linear", "factor": 4.0}
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
SPELLINGS = [
    {},
    {"rope_theta": 5e5},
    {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
    {"rope_theta": 5e5, "rope_scaling": LINEAR},
    {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
    {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    {
        "rope_scaling": LLAMA3 | {"type": "llama3"},
        "original_max_position_embeddings": 16,
    },
    {"rope_scaling": {"type": "default"}, "partial_rotary_factor": 1.0},
]


@pytest.mark.parametrize("changes", SPELLINGS, ids=str)
def test_rotary_frequencies(changes):
    modeling = importlib.import_module("transformers.models.llama.modeling_llama")
    sizes: dict[str, Any] = HF | {"head_dim": 8, "max_position_embeddings": 32}
    # transformers changes the dictionaries that it is called with.
    copied = {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    theirs = modeling.LlamaRotaryEmbedding(transformers.LlamaConfig(**sizes, **copied))
    ours = llama.Config.from_hf(sizes | changes)
    np.testing.assert_allclose(ours.rope_frequencies, theirs.inv_freq, rtol=1e-6)
    assert theirs.attention_scaling == 1


@pytest.mark.parametrize("name, own_name", hf_config.ACTIVATION_NAMES.items())
def test_other_names_of_activations(name, own_name):
    numbers = np.linspace(-4, 4, 33, dtype=np.float32)
    expected = activations.ACT2FN[name](torch.tensor(numbers)).numpy()
    actual = ACTIVATIONS[own_name](numbers)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_defaults_of_windows():
    assert transformers.MistralConfig().sliding_window == window.DEFAULT_WINDOW
    config = transformers.Qwen2Config(use_sliding_window=True)
    assert config.sliding_window == window.DEFAULT_WINDOW
    assert config.max_window_layers == window.DEFAULT_FULL_LAYERS


@pytest.mark.parametrize("first_sliding", [0, 1, 2, 3])
def test_layers_with_a_window(first_sliding):
    fields = dict(
        use_sliding_window=True, sliding_window=8, max_window_layers=first_sliding
    )
    options: dict[str, Any] = dict(fields, num_hidden_layers=2)
    theirs = transformers.Qwen2Config(**options)
    is_limited = window.SLIDING in theirs.layer_types
    expected = theirs.sliding_window if is_limited else None
    assert window.read_window({"model_type": "qwen2", **fields}, layers=2) == expected
