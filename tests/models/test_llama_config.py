"""The configuration of the Llama family: what is read, and what is rejected."""

from typing import Any

import pytest

from lora_jax import tree
from lora_jax.models import llama
from tests.models.small_decoders import LLAMA, shapes

HF: dict[str, Any] = dict(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    vocab_size=50,
    max_position_embeddings=24,
    rms_norm_eps=1e-5,
    hidden_act="silu",
)


def read(**changes: Any) -> llama.Config:
    return llama.Config.from_hf({**HF, **changes})


class TestFields:
    def test_sizes(self):
        assert read(anything="else") == LLAMA

    def test_fields_that_are_null_have_their_defaults(self):
        assert read(num_key_value_heads=None) == LLAMA._replace(kv_heads=4)
        assert read(head_dim=None) == LLAMA
        assert read(rope_scaling=None) == LLAMA

    def test_optional_fields(self):
        config = read(head_dim=6, tie_word_embeddings=True, eos_token_id=7)
        assert config.head_dim == 6
        assert len(config.rope_frequencies) == 3
        assert config.tie_embeddings
        assert config.eos_ids == (7,)
        assert read(eos_token_id=[9, 8]).eos_ids == (9, 8)

    @pytest.mark.parametrize(
        "changes, biases",
        [
            ({}, (False, False, False)),
            ({"attention_bias": True}, (True, True, False)),
            ({"mlp_bias": True}, (False, False, True)),
            ({"model_type": "qwen2"}, (True, False, False)),
            ({"model_type": "qwen2", "attention_bias": False}, (False, False, False)),
        ],
    )
    def test_which_layers_have_biases(self, changes, biases):
        config = read(**changes)
        assert config.biases == biases
        paths = tree.leaves(shapes(config))
        layers = ("attention/value", "attention/output", "mlp/gate")
        has_bias = [f"blocks/{layer}/bias" in paths for layer in layers]
        assert tuple(has_bias) == biases


class TestWindow:
    @pytest.mark.parametrize(
        "changes",
        [
            {"model_type": "mistral", "sliding_window": None},
            {"model_type": "mistral", "sliding_window": 24},
            {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8},
        ],
    )
    def test_a_window_that_hides_nothing_is_none(self, changes):
        assert read(**changes, attention_bias=False) == LLAMA

    @pytest.mark.parametrize(
        "changes",
        [
            {"model_type": "mistral", "sliding_window": 8},
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8},
        ],
    )
    def test_no_text_is_longer_than_a_window(self, changes):
        config = read(**changes, attention_bias=False)
        assert config == LLAMA._replace(max_positions=8)


LLAMA3_WITHOUT_LOW = {
    "rope_type": "llama3",
    "factor": 2.0,
    "high_freq_factor": 4.0,
}


class TestErrors:
    @pytest.mark.parametrize(
        "changes, text",
        [
            (
                {"hidden_act": "swish7"},
                "hidden_act is 'swish7', expected one of gelu, relu, gelu_new, silu",
            ),
            (
                {"num_key_value_heads": 3},
                "num_attention_heads 4 is no multiple of num_key_value_heads 3",
            ),
            (
                {"hidden_size": 18},
                "hidden_size 18 is no multiple of num_attention_heads 4",
            ),
            (
                {"hidden_size": 12},
                "head_dim 3 is odd, and rotary embedding turns pairs",
            ),
            (
                {"partial_rotary_factor": 0.5},
                "partial_rotary_factor is 0.5, expected 1.0",
            ),
            (
                {"rope_parameters": {"partial_rotary_factor": 0.5}},
                "partial_rotary_factor is 0.5, expected 1.0",
            ),
            (
                {"rope_scaling": {"type": "yarn", "factor": 2.0}},
                "the rope_type of rope_scaling is 'yarn', "
                "expected one of default, linear, llama3",
            ),
            (
                {"rope_scaling": LLAMA3_WITHOUT_LOW},
                "rope_scaling is 'llama3' without low_freq_factor, "
                "original_max_position_embeddings",
            ),
            (
                {"rope_scaling": {"type": "linear"}},
                "rope_scaling is 'linear' without factor",
            ),
            (
                {"num_key_value_heads": 3, "head_dim": 5},
                "num_attention_heads 4 is no multiple of num_key_value_heads 3; "
                "head_dim 5 is odd, and rotary embedding turns pairs",
            ),
        ],
    )
    def test_what_it_cannot_do_is_rejected(self, changes, text):
        with pytest.raises(ValueError) as caught:
            read(**changes)
        assert str(caught.value) == f"config.json: {text}"

    def test_all_fields_of_another_kind_are_listed(self):
        with pytest.raises(ValueError) as caught:
            read(
                tie_word_embeddings="false",
                rope_theta="10000",
                rope_scaling={"type": "linear", "factor": 0},
            )
        assert str(caught.value) == (
            "config.json: tie_word_embeddings is 'false', expected true or false; "
            "rope_theta is '10000', expected a number above 0; "
            "factor is 0, expected a number above 0"
        )

    def test_all_missing_fields_are_listed(self):
        config = dict(HF)
        del config["vocab_size"], config["hidden_size"]
        message = (
            "expected the fields num_hidden_layers, .*; "
            "missing: hidden_size, vocab_size$"
        )
        with pytest.raises(ValueError, match=message):
            llama.Config.from_hf(config)
