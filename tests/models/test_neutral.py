"""Checkpoints whose weights or layers are of kinds that are not read."""

from typing import Any

import pytest

from lora_jax.models.neutral import check_storage

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
CODE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "x.XModel"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"quantization_config": None, "auto_map": None},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"load_in_8bit": True}},
        # A tokenizer in Python code is not read: its tokenizer.json is.
        {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}},
    ],
    ids=str,
)
def test_what_is_read(fields: dict[str, Any]):
    check_storage("my-model", fields)


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"quantization_config": GPTQ}, "quantization_config is of 'gptq', expected "),
        ({"quantization_config": {"bits": 4}}, "quantization_config is of None, "),
        ({"quantization_config": "awq"}, "quantization_config is of 'awq', "),
        (
            {"compression_config": {"quant_method": "compressed-tensors"}},
            "compression_config is of 'compressed-tensors', expected bitsandbytes or ",
        ),
        (
            {"auto_map": CODE, "model_type": "llama"},
            r"auto_map names layers in Python code \(AutoConfig, AutoModelForCausalLM\)"
            r".* take auto_map out if the layers are those of 'llama' in transformers",
        ),
        (
            {"auto_map": CODE, "quantization_config": {"quant_method": "fp8"}},
            "quantization_config is of 'fp8', .*; auto_map names layers in Python code",
        ),
    ],
)
def test_what_is_not_read_is_named(fields, text):
    with pytest.raises(ValueError, match=f"^my-model: config.json: {text}"):
        check_storage("my-model", fields)
