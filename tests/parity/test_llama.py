"""The Llama family has transformers' numbers, of the same files."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import tree
from lora_jax.models import llama
from lora_jax.models.decoder import Decoder
from tests.models.small_decoders import LENGTH, error, logits, shapes, token_rows
from tests.models.test_llama import load
from tests.models.test_llama_config import HF
from tests.parity.test_gpt2 import output

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SCALED = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=4.0,
    low_freq_factor=2.0,
    high_freq_factor=18.0,
    original_max_position_embeddings=16,
)
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}
BIASED = dict(
    tie_word_embeddings=True,
    attention_bias=True,
    mlp_bias=True,
    head_dim=6,
    hidden_act="gelu",
)


def peer(folder: Path, kind: str = "Llama", **changes: Any) -> tuple[Any, Decoder]:
    """transformers' model, every parameter drawn at random, and ours of its files."""
    torch.manual_seed(0)
    options = HF | changes
    del options["model_type"]
    their_config = getattr(transformers, f"{kind}Config")(**options)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(their_config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(float("norm" in name), 0.3)
    theirs.save_pretrained(folder)
    config = llama.Config.from_hf(json.loads((folder / "config.json").read_text()))
    leaves = load(folder, config)
    leaves = {path: jnp.asarray(leaf) for path, leaf in leaves.items()}
    return theirs, tree.replace(shapes(config), leaves)


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("Llama", {}),
        ("Llama", BIASED),
        ("Llama", dict(rope_parameters=SCALED, head_dim=16)),
        ("Mistral", dict(rope_parameters=LINEAR, sliding_window=10)),
        ("Qwen2", dict(num_key_value_heads=1)),
    ],
)
def test_logits(kind, changes, tmp_path):
    theirs, model = peer(tmp_path, kind, **changes)
    is_real = np.arange(10) < LENGTH[:, None]
    actual = logits(model, token_rows(), LENGTH)
    expected = output(theirs, token_rows(), LENGTH)
    assert actual.shape == (3, 10, 50)
    assert error(actual[is_real], expected[is_real]) < 1e-4


def test_rope_frequencies_of_llama_3_1():
    """At the published sizes of the 8B model."""
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    scaling = dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    parameters = scaling | {"rope_theta": 500_000.0}
    theirs = transformers.LlamaConfig(**HF, head_dim=128, rope_parameters=parameters)
    expected, _ = rope.ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")

    sizes = {**HF, "head_dim": 128, "rope_theta": 500_000.0}
    ours = llama.Config.from_hf({**sizes, "rope_scaling": scaling})
    np.testing.assert_allclose(ours.rope_frequencies, expected, rtol=1e-6)
