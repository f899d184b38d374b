"""Keys of a GGUF file that change the model: used, or refused by name."""

import pytest

from lora_jax.checkpoints.gguf import llama as ours
from lora_jax.models import llama
from tests.checkpoints.gguf.test_llama import (
    HEADS,
    NEEDED,
    VOCABULARY,
    WIDTH,
    error_of,
    file,
    tensor,
)

HEAD_DIM = WIDTH // HEADS
FACTORS = [1, 1, 1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize(
    "facts",
    [
        {"attention.scale": HEAD_DIM**-0.5, "attention.causal": True},
        {"attention.scale": 0.0, "attention.clamp_kqv": 0.0, "expert_count": 0},
        {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM},
        {"logit_scale": 1.0, "residual_scale": 0.0, "pooling_type": 0},
        {"rope.scaling.type": "none", "rope.scaling.attn_factor": 1.0},
        {"rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.factor": 1.0},
        {"tensor_data_layout": "Meta AI original pth", "attention.sliding_window": 0},
    ],
    ids=str,
)
def test_keys_that_change_nothing(facts):
    plain = llama.Config.from_hf(ours.hf_config(file()))
    assert llama.Config.from_hf(ours.hf_config(file(facts=NEEDED | facts))) == plain


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize(
    "name, value, text",
    [
        ("attention.causal", False, "expected True, got False"),
        ("attention.clamp_kqv", 8.0, "expected 0, got 8.0"),
        ("attention.max_alibi_bias", 8.0, "expected 0, got 8.0"),
        ("attention.scale", 1.0, "expected 0.25, got 1.0"),
        ("attention.value_length", 8, "expected 16 as for keys, got 8"),
        ("logit_scale", 0.25, "expected 1, got 0.25"),
        ("residual_scale", 0.22, "expected 1, got 0.22"),
        ("embedding_scale", 12.0, "expected 1, got 12.0"),
        ("attn_logit_softcapping", 50.0, "expected 0, got 50.0"),
        ("final_logit_softcapping", 30.0, "expected 0, got 30.0"),
        ("rope.scaling.attn_factor", 1.2, "expected 1, got 1.2"),
        ("rope.dimension_sections", [16, 24, 24, 0], "expected 0, got [16, 24, 24, 0]"),
        ("rope.scaling.factor", [2.0], "expected a number, 0 for none, got [2.0]"),
        ("rope.scaling.factor", 2**64, f"expected a number, 0 for none, got {2**64}"),
        ("rope.scale_linear", -2.0, "expected a number, 0 for none, got -2.0"),
        ("pooling_type", 3, "expected -1, got 3"),
        ("nextn_predict_layers", 1, "expected 0, got 1"),
        (
            "rope.dimension_count",
            8,
            "expected attention.key_length, which is 16, got 8",
        ),
        ("expert_count", 8, "expected no mixture of experts, got 8"),
    ],
)
def test_keys_of_other_layers(architecture, name, value, text):
    message = error_of(file(architecture, facts=NEEDED | {name: value}))
    assert message == (
        f"this GGUF file does not describe a model of the {architecture} family:"
        f"\n  {architecture}.{name}: {text}"
    )


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("general.type", "adapter", "expected model, got 'adapter'"),
        ("adapter.type", "lora", "expected None, got 'lora'"),
        ("split.count", 3, "expected 1, got 3"),
        ("tokenizer.ggml.add_sep_token", True, "expected False, got True"),
    ],
)
def test_files_that_are_no_whole_model(name, value, text):
    message = error_of(file(more={name: value}))
    assert message.endswith(f"family:\n  {name}: {text}")


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_no_text_is_longer_than_a_window(architecture):
    facts = NEEDED | {"attention.sliding_window": 32}
    config = llama.Config.from_hf(ours.hf_config(file(architecture, facts=facts)))
    assert config.max_positions == 32


def test_factors_and_a_linear_scaling_multiply():
    tensors = {ours.FACTORS: tensor(FACTORS)}
    facts = NEEDED | {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    config = ours.hf_config(file(facts=facts, tensors=tensors))
    assert config["rope_factors"] == [2, 2, 2, 4, 8, 16, 16, 16]
    assert "rope_scaling" not in config


def test_factors_and_another_scaling_are_refused():
    tensors = {ours.FACTORS: tensor(FACTORS)}
    facts = NEEDED | {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}
    config = ours.hf_config(file(facts=facts, tensors=tensors))
    with pytest.raises(ValueError, match="the rope_type of rope_scaling is 'yarn'"):
        llama.Config.from_hf(config)


@pytest.mark.parametrize(
    "ids, expected",
    [
        ({"eos": 2}, 2),
        ({"eos": 2, "eot": 2}, 2),
        ({"eos": 2, "eot": 3, "eom": VOCABULARY - 1}, [2, 3, VOCABULARY - 1]),
        ({"eot": 3}, 3),
        ({}, None),
    ],
)
def test_tokens_that_end_a_turn_end_a_text(ids, expected):
    more = {f"tokenizer.ggml.{name}_token_id": value for name, value in ids.items()}
    assert ours.hf_config(file(more=more))["eos_token_id"] == expected
