"""Language models in GGUF files: as they are stored, as arrays, in another format."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lora_jax import quant, tree
from lora_jax.models import sources
from lora_jax.models.decoder import Decoder
from tests.models.gguf_model import END, LETTERS, write_gguf

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function


class TestModel:
    @pytest.mark.parametrize("place", ["file", "directory"])
    def test_keeps_its_few_bits(self, tmp_path, place):
        path = tmp_path / "some.gguf"
        tensors = write_gguf(path)
        name = path if place == "file" else tmp_path
        model, tokenizer = load.load(name)
        assert isinstance(model, Decoder)
        assert model.config.eos_ids == (END,)
        assert model.lm_head is None
        assert len(quant.quantized_leaves(model)) == 8  # the table of tokens too
        down = tree.leaves(model)["blocks/mlp/down/kernel"]
        assert down.codec == "int8"
        expected = tensors["blk.0.ffn_down"].T
        np.testing.assert_allclose(down.dequantize()[0], expected, rtol=1e-6)

        tokens = tokenizer.encode("abc")
        assert tokens.tokens == ["ab", "c"]
        assert load.load_tokenizer(name).encode("abc").tokens == ["ab", "c"]
        logits = jax.eval_shape(model, np.array([tokens.ids]))
        assert logits.shape == (1, 2, len(LETTERS))
        source = "some.gguf" if place == "file" else tmp_path.name
        assert sources.find_files(name).source == source

    def test_as_arrays(self, tmp_path):
        path = tmp_path / "some.gguf"
        tensors = write_gguf(path)
        model, _ = load.load(path, quantize="float")
        assert not quant.quantized_leaves(model)
        up = model.blocks.mlp.up.kernel[0]
        expected = tensors["blk.0.ffn_up"].T
        np.testing.assert_allclose(up, expected, rtol=1e-6)
        table = model.embed.tokens.embedding
        expected = tensors["token_embd"]
        np.testing.assert_allclose(table, expected, rtol=1e-6)

    def test_as_arrays_of_another_dtype(self, tmp_path):
        path = tmp_path / "some.gguf"
        write_gguf(path)
        model, _ = load.load(path, quantize="float", dtype="bfloat16")
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(model)}
        assert dtypes == {jnp.dtype("bfloat16")}

    def test_in_another_format_that_is_asked_for(self, tmp_path):
        path = tmp_path / "some.gguf"
        write_gguf(path)
        model, _ = load.load(path, quantize="nf4")
        up = model.blocks.mlp.up.kernel.get_value()
        assert up.codec == "nf4"

    def test_a_file_that_was_written_anew_is_read_anew(self, tmp_path):
        path = tmp_path / "some.gguf"
        provenance = set()
        for scale in (1.0, 2.0):
            path.unlink(missing_ok=True)
            tensors = write_gguf(path, scale=scale)
            model, _ = load.load(path, quantize="float")
            up = model.blocks.mlp.up.kernel[0]
            expected = tensors["blk.0.ffn_up"].T
            np.testing.assert_allclose(up, expected, rtol=1e-6)
            provenance.add(sources.source(path))
        assert len(provenance) == 2
        for source in provenance:
            assert source.startswith("some.gguf ")


class TestErrors:
    def test_another_family(self, tmp_path):
        write_gguf(tmp_path / "some.gguf", family="gemma")
        message = (
            "^(test_another|some.gguf).*: general.architecture: "
            "expected one of llama, qwen2, got 'gemma'"
        )
        for name in (tmp_path, tmp_path / "some.gguf"):
            with pytest.raises(ValueError, match=message):
                load.load(name)

    def test_two_files_are_none(self, tmp_path):
        for name in ("a.gguf", "b.gguf"):
            write_gguf(tmp_path / name)
        message = r"expected config.json, found \['a.gguf', 'b.gguf'\]"
        with pytest.raises(FileNotFoundError, match=message):
            load.load(tmp_path)

    def test_a_tokenizer_beside_it_that_is_larger_than_the_vocabulary(self, tmp_path):
        write_gguf(tmp_path / "some.gguf")
        ids = {str(index): index for index in range(31)}
        tokenizer = Tokenizer(WordLevel(ids, "0"))
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        message = "expected token ids below 30 .* got 30 for '30'"
        with pytest.raises(ValueError, match=message):
            load.load(tmp_path)
