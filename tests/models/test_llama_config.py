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
        assert read(attention_bias=None, tie_word_embeddings=None) == LLAMA
        assert read(model_type="qwen2", attention_bias=None).biases[0] is True

    def test_values_that_change_nothing(self):
        assert (
            read(
                pretraining_tp=4,
                attention_dropout=0.1,
                logit_scale=1.0,
                attn_logit_softcapping=None,
                final_logit_softcapping=0.0,
                attention_multiplier=0.5,
                query_pre_attn_scalar=4,
                pruned_heads={},
                layer_types=["full_attention"] * 2,
                rope_scaling={"type": "default", "factor": 1.0, "mscale": None},
                rope_parameters={"rope_type": "default", "factor": 1.0, "mscale": None},
            )
            == LLAMA
        )

    def test_activations_have_several_names(self):
        assert read(hidden_act="swish") == LLAMA
        assert read(hidden_act="gelu_pytorch_tanh").activation == "gelu_new"

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


QWEN = {
    "model_type": "qwen2",
    "attention_bias": False,
    "use_sliding_window": True,
    "sliding_window": 8,
}
MISTRAL = {"model_type": "mistral", "sliding_window": 8}


class TestWindow:
    @pytest.mark.parametrize(
        "changes",
        [
            MISTRAL | {"sliding_window": None},
            MISTRAL | {"sliding_window": 24},
            QWEN | {"use_sliding_window": False},
            QWEN | {"use_sliding_window": None},
            # Only layers from 28 on would have one, and then only from the third on.
            QWEN,
            QWEN | {"max_window_layers": 2},
            QWEN | {"layer_types": ["full_attention"] * 2, "max_window_layers": 0},
            {"sliding_window": 8, "use_sliding_window": False},
        ],
        ids=str,
    )
    def test_a_window_that_hides_nothing_is_none(self, changes):
        assert read(**changes) == LLAMA

    @pytest.mark.parametrize(
        "changes",
        [
            MISTRAL,
            # Mistral has no such field.
            MISTRAL | {"use_sliding_window": False},
            QWEN | {"max_window_layers": 1},
            QWEN | {"layer_types": ["full_attention", "sliding_attention"]},
            {"sliding_window": 8},
        ],
        ids=str,
    )
    def test_no_text_is_longer_than_a_window(self, changes):
        assert read(**changes) == LLAMA._replace(max_positions=8)

    @pytest.mark.parametrize(
        "changes",
        [{"model_type": "mistral"}, QWEN | {"max_window_layers": 0}],
        ids=str,
    )
    def test_a_window_that_is_absent_is_of_4096(self, changes):
        changes = dict(changes, max_position_embeddings=8192)
        changes.pop("sliding_window", None)
        assert read(**changes) == LLAMA._replace(max_positions=4096)


LLAMA3_WITHOUT_LOW = {
    "rope_type": "llama3",
    "factor": 2.0,
    "high_freq_factor": 4.0,
}


LINEAR = {"type": "linear", "factor": 2.0}
LLAMA3 = {
    **LLAMA3_WITHOUT_LOW,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8,
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
                {"is_encoder_decoder": True},
                "is_encoder_decoder is True, expected False",
            ),
            ({"logit_scale": 0.25}, "logit_scale is 0.25, expected 1"),
            (
                {"attn_logit_softcapping": 50.0, "qk_norm": True},
                "attn_logit_softcapping is 50.0, expected None; "
                "qk_norm is True, expected False",
            ),
            (
                {"attention_multiplier": 0.25, "query_pre_attn_scalar": 256},
                "attention_multiplier is 0.25, expected 0.5; "
                "query_pre_attn_scalar is 256, expected 4",
            ),
            (
                {"num_attention_heads": 32},
                "hidden_size 16 is no multiple of num_attention_heads 32",
            ),
            (
                {"softmax_scale": 10**400, "head_dim": 4},
                f"softmax_scale is {10**400}, expected 0.5",
            ),
            ({"head_dim": 0}, "head_dim is 0, expected a whole number above 0"),
            ({"sliding_window": 0}, "sliding_window is 0, expected a number above 0"),
            (
                {"layer_types": ["full_attention", "linear_attention"]},
                "layer_types has linear_attention, expected full_attention or "
                "sliding_attention",
            ),
            (
                {"layer_types": ["full_attention"]},
                "layer_types is ['full_attention'], expected a list of 2",
            ),
            (
                {"layer_types": ["sliding_attention"] * 2},
                "layer_types has sliding_attention without a sliding_window that is "
                "used",
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
                {"rope_parameters": {"rope_type": ["linear"]}},
                "the rope_type of rope_scaling is ['linear'], "
                "expected one of default, linear, llama3",
            ),
            (
                {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}},
                "rope_theta is 500000.0 and 10000.0, expected one number",
            ),
            (
                {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
                "rope_scaling is 'default', which has no full_attention "
                "({'rope_theta': 10000.0})",
            ),
            (
                {"rope_scaling": {**LINEAR, "attention_factor": 1.2, "mscale": 1}},
                "rope_scaling is 'linear', which has no attention_factor (1.2)",
            ),
            (
                {"rope_scaling": {"rope_type": "default", "factor": 2.0}},
                "rope_scaling is 'default', which has no factor (2.0)",
            ),
            (
                {"rope_scaling": {**LINEAR, "rope_type": "default"}},
                "type is 'linear' and rope_type is 'default'; "
                "rope_scaling is 'default', which has no factor (2.0)",
            ),
            (
                {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default"}},
                "rope_scaling is {'type': 'linear', 'factor': 2.0, 'rope_type': "
                "'linear'} and rope_parameters is {'rope_type': 'default'}, "
                "expected the same",
            ),
            (
                {"original_max_position_embeddings": 16, "rope_scaling": LLAMA3},
                "original_max_position_embeddings is 16 and 8, expected one number",
            ),
            (
                {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
                "low_freq_factor is 4.0, expected less than high_freq_factor 4.0",
            ),
            ({"rope_base": 5e5}, "rope_base is 500000.0, expected None"),
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
