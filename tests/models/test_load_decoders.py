"""Language models by name: directories of GPT-2 and Llama, GGUF files, and the tiny one."""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.numpy import save, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lora_jax import quant, tree
from lora_jax.checkpoints import placement, safetensors
from lora_jax.models import gpt2, llama, sources
from lora_jax.models.decoder import Decoder
from tests.models import test_gpt2, test_llama

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function

DECODERS = {"gpt2": (test_gpt2, gpt2), "llama": (test_llama, llama)}


class TestDirectories:
    """Of each family of decoders, in one file and in shards."""

    @pytest.fixture(params=DECODERS)
    def family(self, request, tmp_path) -> tuple[Path, dict[str, np.ndarray], Any]:
        """(a directory without weights, the weights, what they are to this library)."""
        tests, module = DECODERS[request.param]
        (tmp_path / "config.json").write_text(
            json.dumps(tests.HF | {"eos_token_id": 7})
        )
        Tokenizer(WordLevel({str(i): i for i in range(50)}, "0")).save(
            str(tmp_path / "tokenizer.json")
        )
        arrays = tests.checkpoint()
        config = module.Config.from_hf(tests.HF)
        shapes = tree.leaves(
            jax.eval_shape(lambda key: module.init(key, config), jax.random.key(0))
        )
        return (
            tmp_path,
            arrays,
            placement.load(
                safetensors.tensors(save(arrays)), module.rules(config), shapes
            ),
        )

    @pytest.mark.parametrize("shards", [1, 3])
    def test_a_directory(self, family, shards):
        folder, arrays, expected = family
        if shards == 1:
            save_file(arrays, folder / "model.safetensors")
        else:
            where = {
                name: f"model-{i % shards}.safetensors" for i, name in enumerate(arrays)
            }
            for file in set(where.values()):
                save_file(
                    {name: arrays[name] for name in arrays if where[name] == file},
                    folder / file,
                )
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": where})
            )
        model, tokenizer = load.load(folder, labels=5)
        assert (
            isinstance(model, Decoder)
            and model.config.eos_ids == (7,)
            and tokenizer.get_vocab_size() == 50
        )
        found = tree.leaves(model)
        assert found.keys() == expected.keys(), "a head of labels?"
        for path, leaf in expected.items():
            np.testing.assert_array_equal(found[path], leaf, err_msg=path)

    @pytest.mark.parametrize(
        ("said", "ends"),
        [({"eos_token_id": [3, 9]}, (3, 9)), ({"temperature": 1.0}, (7,))],
    )
    def test_what_ends_a_text_is_the_generation_s_to_say(self, family, said, ends):
        folder, arrays, _ = family
        save_file(arrays, folder / "model.safetensors")
        (folder / "generation_config.json").write_text(json.dumps(said))
        assert load.load(folder)[0].config.eos_ids == ends

    def test_a_tokenizer_larger_than_the_vocabulary(self, family):
        folder, arrays, _ = family
        save_file(arrays, folder / "model.safetensors")
        Tokenizer(WordLevel({str(i): i for i in range(51)}, "0")).save(
            str(folder / "tokenizer.json")
        )
        with pytest.raises(
            ValueError,
            match=r"does not belong to this model: expected token ids below 50 .* got 50 for '50'",
        ):
            load.load(folder)

    def test_tiny_llama_needs_no_files(self):
        made = []
        model = jax.eval_shape(lambda: made.extend(load.load("tiny-llama")) or made[0])
        tokenizer = made[1]
        assert (
            isinstance(model, Decoder)
            and sources.source("tiny-llama") == "random weights"
        )
        ids = tokenizer.encode("Zoë\n<|endoftext|>").ids
        assert len(ids) == 4 + 1 + 1 and ids[-1] == model.config.eos_ids[0] == 256
        assert tokenizer.decode(ids) == "Zoë\n"


LETTERS = [*"abcdefghijklmnopqrstuvwxyzĠĊ", "ab", "<|end|>"]


def write_gguf(
    path: Path, *, kind: str = "llama", scale: float = 1.0
) -> dict[str, np.ndarray]:
    """A model of one layer with a tokenizer; what its matrices stand for, by GGUF's names."""
    writer = GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(LETTERS)
    writer.add_token_types([1] * (len(LETTERS) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(LETTERS) - 1)
    square = dict.fromkeys(
        [f"blk.0.attn_{name}" for name in ("q", "k", "v", "output")], (32, 32)
    )
    shapes = square | {
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    shapes |= {"token_embd": (len(LETTERS), 32)} | dict.fromkeys(
        ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"], (32,)
    )
    random, meant = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        of = GGMLQuantizationType.Q8_0 if len(shape) == 2 else GGMLQuantizationType.F32
        data = quants.quantize(
            (scale * random.normal(size=shape)).astype(np.float32), of
        )
        writer.add_tensor(f"{name}.weight", data, raw_dtype=of)
        meant[name] = quants.dequantize(data, of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


class TestGGUF:
    @pytest.mark.parametrize("where", ["file", "directory"])
    def test_a_model(self, tmp_path, where):
        path = tmp_path / "some.gguf"
        meant = write_gguf(path)
        name = path if where == "file" else tmp_path
        model, tokenizer = load.load(name)
        assert (
            isinstance(model, Decoder)
            and model.config.eos_ids == (len(LETTERS) - 1,)
            and model.lm_head is None
        )
        assert (
            tokenizer.encode("abc").tokens
            == load.load_tokenizer(name).encode("abc").tokens
            == ["ab", "c"]
        )
        assert len(quant.quantized_leaves(model)) == 8  # the table of tokens too
        down = tree.leaves(model)["blocks/mlp/down/kernel"]
        assert down.codec == "int8"
        np.testing.assert_allclose(
            down.dequantize()[0], meant["blk.0.ffn_down"].T, rtol=1e-6
        )
        assert jax.eval_shape(model, np.array([tokenizer.encode("abc").ids])).shape == (
            1,
            2,
            len(LETTERS),
        )
        assert sources.find_files(name).source == (
            "some.gguf" if where == "file" else tmp_path.name
        )

    def test_as_arrays(self, tmp_path):
        path = tmp_path / "some.gguf"
        stored, arrays = write_gguf(path), load.load(path, quantize="float")[0]
        assert not quant.quantized_leaves(arrays)
        np.testing.assert_allclose(
            arrays.blocks.mlp.up.kernel[0], stored["blk.0.ffn_up"].T, rtol=1e-6
        )
        np.testing.assert_allclose(
            arrays.embed.tokens.embedding, stored["token_embd"], rtol=1e-6
        )
        again = load.load(path, quantize="nf4")[0].blocks.mlp.up.kernel.get_value()
        assert again.codec == "nf4", "another type that is asked for"
        with_float = load.load(path, quantize="float", dtype="bfloat16")[0]
        assert {leaf.dtype for leaf in jax.tree.leaves(with_float)} == {
            jnp.dtype("bfloat16")
        }

    def test_a_file_that_was_written_anew_is_read_anew(self, tmp_path):
        path, provenances = tmp_path / "some.gguf", set()
        for scale in (1.0, 2.0):
            path.unlink(missing_ok=True)
            meant = write_gguf(path, scale=scale)
            found = load.load(path, quantize="float")[0]
            np.testing.assert_allclose(
                found.blocks.mlp.up.kernel[0], meant["blk.0.ffn_up"].T, rtol=1e-6
            )
            provenances.add(sources.source(path))
        assert len(provenances) == 2 and all(
            source.startswith("some.gguf ") for source in provenances
        )

    def test_another_family(self, tmp_path):
        write_gguf(tmp_path / "some.gguf", kind="gemma")
        for name in (tmp_path, tmp_path / "some.gguf"):
            with pytest.raises(
                ValueError,
                match=r"^(test_another|some.gguf).*: general.architecture: expected one of llama, qwen2, got 'gemma'",
            ):
                load.load(name)

    def test_two_files_are_none(self, tmp_path):
        for name in ("a.gguf", "b.gguf"):
            write_gguf(tmp_path / name)
        with pytest.raises(
            FileNotFoundError,
            match=r"expected config.json, found \['a.gguf', 'b.gguf'\]",
        ):
            load.load(tmp_path)

    def test_a_tokenizer_beside_it_that_is_larger_than_the_vocabulary(self, tmp_path):
        write_gguf(tmp_path / "some.gguf")
        Tokenizer(WordLevel({str(i): i for i in range(31)}, "0")).save(
            str(tmp_path / "tokenizer.json")
        )
        with pytest.raises(
            ValueError, match=r"expected token ids below 30 .* got 30 for '30'"
        ):
            load.load(tmp_path)
