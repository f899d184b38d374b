"""A model whose matrices bitsandbytes has quantized is loaded as it was."""

import jax
import numpy as np
import pytest

from lora_jax import quant, tree
from lora_jax.checkpoints import placement
from lora_jax.models import bert
from lora_jax.quant import Scales
from tests.checkpoints.bitsandbytes.files import collect, normal, write_weight

# Our names of what a layer has, and Hugging Face's.
MATRICES = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
}
NORMS = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
# Those of what is outside the layers.
SINGLE = {
    "embed/tokens/embedding": "embeddings.word_embeddings.weight",
    "embed/positions/embedding": "embeddings.position_embeddings.weight",
    "embed/segments/embedding": "embeddings.token_type_embeddings.weight",
    "embed/norm/scale": "embeddings.LayerNorm.weight",
    "embed/norm/bias": "embeddings.LayerNorm.bias",
    "pooler/kernel": "pooler.dense.weight",
    "pooler/bias": "pooler.dense.bias",
    "head/kernel": "classifier.weight",
    "head/bias": "classifier.bias",
}


def checkpoint(model: bert.Encoder) -> dict[str, np.ndarray]:
    """The model under Hugging Face's names, its quantized matrices as bitsandbytes'."""
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in tree.leaves(model).items():
        if path in SINGLE:
            arrays[SINGLE[path]] = leaf.T if path.endswith("kernel") else leaf
            continue
        module, name = path.removeprefix("blocks/").rsplit("/", 1)
        their_module = (MATRICES | NORMS)[module]
        for i in range(leaf.shape[0]):
            prefix = f"encoder.layer.{i}.{their_module}"
            layer = jax.tree.map(lambda part, i=i: part[i], leaf)
            if name == "kernel":
                arrays |= write_weight(f"{prefix}.weight", layer.T)
            elif name == "scale":
                arrays[f"{prefix}.weight"] = layer
            else:
                arrays[f"{prefix}.{name}"] = layer
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def four_bits(tiny) -> bert.Encoder:
    return quant.quantize_model(tiny(), "fp4_double")


def test_a_model_saved_in_4_bits_is_loaded_as_it_was(four_bits, config, same):
    expected = tree.leaves(four_bits)
    # What is quantized is not quantized again, whatever format is asked for.
    loaded = placement.load(
        collect(checkpoint(four_bits)),
        bert.rules(config()),
        expected,
        dtype="float32",
        convert=quant.find_spec("int8"),
    )
    assert loaded.keys() == expected.keys()
    for path in expected:
        assert same(loaded[path], expected[path]), path
    assert isinstance(loaded["blocks/mlp/up/kernel"].scales, Scales)


def test_in_a_model_in_4_bits_all_layers_have_to_be(four_bits, config):
    # One layer's matrix in floats.
    name = "encoder.layer.1.output.dense.weight"
    arrays = {name: normal(16, 32)}
    for other, array in checkpoint(four_bits).items():
        if not other.startswith(name):
            arrays[other] = array
    text = "blocks/mlp/down/kernel: expected every layer to be stored alike"
    with pytest.raises(ValueError, match=text):
        placement.load(collect(arrays), bert.rules(config()), tree.leaves(four_bits))
