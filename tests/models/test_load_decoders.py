"""Language models by name: directories of GPT-2 and Llama, and the tiny one."""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lora_jax import tree
from lora_jax.models import gpt2, llama, sources
from lora_jax.models.decoder import Decoder
from tests.models import test_gpt2, test_llama, test_llama_config

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function

FAMILIES = {  # config.json, the checkpoint's tests, the family
    "gpt2": (test_gpt2.HF, test_gpt2, gpt2),
    "llama": (test_llama_config.HF, test_llama, llama),
}


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    ids = {str(index): index for index in range(vocabulary)}
    Tokenizer(WordLevel(ids, "0")).save(str(folder / "tokenizer.json"))


def write_shards(folder: Path, arrays: dict[str, np.ndarray], count: int) -> None:
    files: dict[str, dict[str, np.ndarray]] = {}
    weight_map = {}
    for index, (name, array) in enumerate(arrays.items()):
        file = f"model-{index % count}.safetensors"
        files.setdefault(file, {})[name] = array
        weight_map[name] = file
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


class TestDirectories:
    """Of each family of decoders, in one file and in shards."""

    @pytest.fixture(params=FAMILIES)
    def family(self, request, tmp_path) -> tuple[Path, dict[str, np.ndarray], Any]:
        """(a directory without weights, the weights, what they are to this library)."""
        config, tests, module = FAMILIES[request.param]
        config_json = json.dumps(config | {"eos_token_id": 7})
        (tmp_path / "config.json").write_text(config_json)
        write_tokenizer(tmp_path, 50)
        arrays = tests.checkpoint()
        expected = tests.load(save(arrays), module.Config.from_hf(config))
        return tmp_path, arrays, expected

    @pytest.mark.parametrize("shards", [1, 3])
    def test_a_directory(self, family, shards):
        folder, arrays, expected = family
        if shards == 1:
            save_file(arrays, folder / "model.safetensors")
        else:
            write_shards(folder, arrays, shards)
        model, tokenizer = load.load(folder, labels=5)
        assert isinstance(model, Decoder)
        assert model.config.eos_ids == (7,)
        assert tokenizer.get_vocab_size() == 50
        leaves = tree.leaves(model)
        assert leaves.keys() == expected.keys(), "a head of labels?"
        for path, leaf in expected.items():
            np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)

    def test_a_tied_head_must_be_the_embedding(self, family):
        folder, arrays, _ = family
        arrays.pop("lm_head.weight", None)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(config | {"tie_word_embeddings": True})
        )
        (name,) = [
            name for name in arrays if name.endswith(("tokens.weight", "wte.weight"))
        ]
        save_file(
            {**arrays, "lm_head.weight": arrays[name]}, folder / "model.safetensors"
        )
        assert load.load(folder)[0].lm_head is None
        other = arrays[name] + np.eye(*arrays[name].shape, dtype=np.float32)
        save_file({**arrays, "lm_head.weight": other}, folder / "model.safetensors")
        text = rf"ties the head .*, but lm_head.weight differs from {name}; set"
        with pytest.raises(ValueError, match=text):
            load.load(folder)

    @pytest.mark.parametrize(
        "generation_config, eos_ids",
        [({"eos_token_id": [3, 9]}, (3, 9)), ({"temperature": 1.0}, (7,))],
    )
    def test_generation_config_decides_what_ends_a_text(
        self, family, generation_config, eos_ids
    ):
        folder, arrays, _ = family
        save_file(arrays, folder / "model.safetensors")
        path = folder / "generation_config.json"
        path.write_text(json.dumps(generation_config))
        model, _ = load.load(folder)
        assert model.config.eos_ids == eos_ids

    def test_a_tokenizer_larger_than_the_vocabulary(self, family):
        folder, arrays, _ = family
        save_file(arrays, folder / "model.safetensors")
        write_tokenizer(folder, 51)
        message = (
            "does not belong to this model: expected token ids below 50 .* "
            "got 50 for '50'"
        )
        with pytest.raises(ValueError, match=message):
            load.load(folder)


def test_tiny_llama_needs_no_files():
    tokenizers = []

    def load_model():
        model, tokenizer = load.load("tiny-llama")
        tokenizers.append(tokenizer)
        return model

    model = jax.eval_shape(load_model)
    assert isinstance(model, Decoder)
    assert sources.source("tiny-llama") == "random weights"
    ids = tokenizers[0].encode("Zoë\n<|endoftext|>").ids
    assert len(ids) == 4 + 1 + 1  # ë is two bytes
    assert ids[-1] == model.config.eos_ids[0] == 256
    assert tokenizers[0].decode(ids) == "Zoë\n"
