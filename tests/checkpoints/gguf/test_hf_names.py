"""Tensors of a GGUF file by Hugging Face's names, and a BERT that is loaded by them."""

from typing import NamedTuple

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from lora_jax import quant, tree
from lora_jax.checkpoints import placement
from lora_jax.checkpoints.gguf import file as ours
from lora_jax.models import bert
from tests.checkpoints.gguf.files import BITS, Stored, dense, stored, write

# Our paths -> llama.cpp's names, with a type to store them in.
PLACES = {
    "embed/tokens/embedding": ("token_embd.weight", Type.Q8_0),
    "embed/positions/embedding": ("position_embd.weight", Type.F16),
    "embed/segments/embedding": ("token_types.weight", Type.F32),
    "embed/norm": ("token_embd_norm", Type.F32),
    "blocks/attention/query": ("blk.{}.attn_q", Type.Q8_0),
    "blocks/attention/key": ("blk.{}.attn_k", Type.Q4_0),
    "blocks/attention/value": ("blk.{}.attn_v", Type.Q4_1),
    "blocks/attention/output": ("blk.{}.attn_output", Type.F16),
    "blocks/attention_norm": ("blk.{}.attn_output_norm", Type.F32),
    "blocks/mlp/up": ("blk.{}.ffn_up", Type.Q4_1),
    "blocks/mlp/down": ("blk.{}.ffn_down", Type.Q4_0),
    "blocks/mlp_norm": ("blk.{}.layer_output_norm", Type.F32),
    "head": ("cls", Type.Q8_0),
}
ENDS = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}


class StoredLeaf(NamedTuple):
    """A leaf as it is in a file."""

    tensors: dict[str, Stored]
    numbers: np.ndarray  # what they stand for, in our shape
    is_quantized: bool


def store_leaf(path: str, leaf: np.ndarray) -> StoredLeaf:
    module, _, end = path.rpartition("/")
    name, raw_type = PLACES.get(path) or PLACES[module]
    name += ENDS.get(end, "")
    if end in ("bias", "scale"):
        raw_type = Type.F32
    # torch's (out, in)
    matrices = leaf
    if end == "kernel":
        matrices = leaf.swapaxes(-1, -2)
    # A tensor for each layer.
    is_stacked = "{}" in name
    if not is_stacked:
        matrices = matrices[None]

    tensors = {}
    layers = []
    for layer, matrix in enumerate(matrices):
        data = gguf.quants.quantize(np.ascontiguousarray(matrix), raw_type)
        tensors[name.format(layer)] = data, raw_type
        layers.append(gguf.quants.dequantize(data, raw_type))
    numbers = np.stack(layers)
    if not is_stacked:
        numbers = numbers[0]
    if end == "kernel":
        numbers = numbers.swapaxes(-1, -2)
    return StoredLeaf(tensors, numbers, raw_type in BITS)


def test_a_bert_is_the_model_of_the_dequantized_weights(tiny, config, batch, tmp_path):
    sizes = dict(width=32, ffn=64)
    model = tiny("bert", 3, **sizes)
    leaves, tensors = {}, {}
    for path, leaf in tree.leaves(model).items():
        # llama.cpp has no pooler.
        if not path.startswith("pooler"):
            leaves[path] = store_leaf(path, np.asarray(leaf))
            tensors |= leaves[path].tensors
    assert sum(leaf.is_quantized for leaf in leaves.values()) == 7

    file = ours.read(write(tmp_path / "bert.gguf", tensors))
    rules = bert.rules(config("bert", **sizes))
    loaded = placement.load(
        ours.with_hf_names(file, rules),
        rules,
        tree.leaves(model),
        optional=["pooler/"],
        dtype="float32",
    )
    assert loaded.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert quant.is_quantized(loaded[name]) == leaf.is_quantized, name
        np.testing.assert_array_equal(dense(loaded[name]), leaf.numbers, err_msg=name)

    # The model computes with its bits what it would with their numbers.
    arrays = {name: jax.tree.map(jnp.asarray, leaf) for name, leaf in loaded.items()}
    numbers = {name: jnp.asarray(leaf.numbers) for name, leaf in leaves.items()}
    options = {"xla_backend_optimization_level": 0}
    forward = jax.jit(bert.Encoder.__call__, compiler_options=options)
    inputs = batch.tokens, batch.segments, batch.length
    logits = forward(tree.replace(model, arrays), *inputs)
    expected = forward(tree.replace(model, numbers), *inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(forward(model, *inputs) - expected).max() > 1e-2


def test_the_same_tensor_has_each_family_s_name(tmp_path, config):
    tensors = {"cls.bias": stored(Type.F32, 3), "rope_freqs": stored(Type.F32, 3)}
    file = ours.read(write(tmp_path / "x.gguf", tensors))
    names = list(ours.with_hf_names(file, bert.rules(config("bert"))))
    assert names == ["classifier.bias", "rope_freqs"]
    names = list(ours.with_hf_names(file, bert.rules(config("roberta"))))
    assert names == ["classifier.dense.bias", "rope_freqs"]


@pytest.mark.parametrize(
    "metadata, text",
    [
        ({}, "general.architecture: got None, expected one of "),
        (
            {"general.architecture": "berd"},
            "general.architecture: got 'berd', expected one of bert, ",
        ),
        (
            {"general.architecture": "bert"},
            "bert.block_count: expected the number of layers, got None",
        ),
    ],
)
def test_metadata_that_do_not_say_the_names(metadata, text):
    with pytest.raises(ValueError) as caught:
        ours.with_hf_names(ours.File(metadata, {}), ())
    assert str(caught.value).startswith(text)
