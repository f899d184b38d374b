"""Models as shapes: their published sizes, and what is refused."""

import json

import pytest

from lora_jax import accounting, tree
from lora_jax.accounting.llama_memory import LLAMAS
from lora_jax.accounting.model_shapes import CONFIGS, shaped_model


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # As their checkpoints have them; LLaMA's are those of Touvron et al. 2023.
        ("llama-7b", LLAMAS["LLaMA 7B"].parameters),
        ("llama-65b", 65_285_660_672),
        ("llama-1.2b", 1_235_814_400),
        ("llama-8b", 8_030_261_248),
        ("gpt3-175b", accounting.total_parameters("gpt3-175b")),
        # Without a head for two classes.
        ("bert-large", 335_141_888 + 2 * 1024 + 2),
    ],
)
def test_a_model_has_as_many_parameters_as_is_published(name, parameters):
    assert tree.count(shaped_model(name)) == parameters


def test_a_model_of_a_config_json(tmp_path):
    config = {**CONFIGS["llama-7b"], "num_hidden_layers": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    by_folder = shaped_model(str(tmp_path))
    assert by_folder.config.layers == 2
    by_file = shaped_model(str(path))
    assert tree.count(by_file) == tree.count(by_folder)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected one of llama-7b, .*, got 'llama-9b'"
    ):
        shaped_model("llama-9b")
    config = {**CONFIGS["bert-large"], "model_type": "t5"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"expected a model_type among .*, got 't5'"):
        shaped_model(str(tmp_path))
    del config["hidden_size"]
    config["model_type"] = "bert"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="hidden_size"):
        shaped_model(str(tmp_path))
