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
from tests.models.test_gpt2 import error, output
from tests.models.test_llama import HF, LENGTH, LLAMA3, abstract, load, logits, tokens  # noqa: F401

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SCALED = {**LLAMA3, "rope_theta": 500.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}


def peer(folder: Path, kind: str = "Llama", **changes: Any) -> tuple[Any, Decoder]:
    """transformers' model, every parameter drawn at random, and ours of its files."""
    torch.manual_seed(0)
    settings = {k: v for k, v in HF.items() if k != "model_type"} | changes
    theirs = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**settings)
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(float("norm" in name), 0.3)
    theirs.save_pretrained(folder)
    config = llama.Config.from_hf(json.loads((folder / "config.json").read_text()))
    return theirs, tree.replace(
        abstract(config),
        {p: jnp.asarray(leaf) for p, leaf in load(folder, config).items()},
    )


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("Llama", {}),
        (
            "Llama",
            dict(
                tie_word_embeddings=True,
                attention_bias=True,
                mlp_bias=True,
                head_dim=6,
                hidden_act="gelu",
            ),
        ),
        ("Llama", dict(rope_parameters=SCALED, head_dim=16)),
        ("Mistral", dict(rope_parameters=LINEAR, sliding_window=10)),
        ("Qwen2", dict(num_key_value_heads=1)),
    ],
)
def test_logits(kind, changes, tokens, tmp_path):  # noqa: F811
    theirs, model = peer(tmp_path, kind, **changes)
    real = np.arange(10) < LENGTH[:, None]
    got, wanted = logits(model, tokens, LENGTH), output(theirs, tokens, LENGTH)
    assert got.shape == (3, 10, 50)
    assert error(got[real], wanted[real]) < 1e-4


def test_angles_of_llama_3_1():
    """At the published sizes of the 8B model."""
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    scaling = dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    theirs = transformers.LlamaConfig(
        **HF, head_dim=128, rope_parameters=scaling | {"rope_theta": 500_000.0}
    )
    wanted, _ = rope.ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")
    ours = llama.Config.from_hf(
        {**HF, "head_dim": 128, "rope_theta": 500_000.0, "rope_scaling": scaling}
    )
    np.testing.assert_allclose(ours.rope_frequencies, wanted, rtol=1e-6)
