"""Sizes in config.json that are not the tensors' are named before anything is built."""

import importlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import bert, gpt2, llama
from lora_jax.models.sizes import Size, check_sizes
from tests.models import test_gpt2, test_llama, test_llama_config
from tests.models.fake_family import change_config
from tests.models.small_bert import CONFIG, bert_shapes, write_bert

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function


def headers(shapes) -> dict[str, Tensor]:
    """Tensors without numbers."""
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = Tensor("m.safetensors", shape, np.dtype("float32"), list)
    return tensors


def family_shapes(checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in checkpoint().items()}


FAMILIES = {
    "bert": (CONFIG, bert_shapes(), bert),
    "gpt2": (test_gpt2.HF, family_shapes(test_gpt2.checkpoint), gpt2),
    "llama": (test_llama_config.HF, family_shapes(test_llama.checkpoint), llama),
}
FIELDS = []
for name, (_, _, module) in FAMILIES.items():
    FIELDS += [(name, size.field) for size in module.SIZES]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_has_the_sizes_of_its_config(name):
    config, shapes, family = FAMILIES[name]
    check_sizes("m", config, family.SIZES, headers(shapes))


@pytest.mark.parametrize("value", [1000, 10**12, 10**40])
@pytest.mark.parametrize("name, field", FIELDS)
def test_a_size_that_no_tensor_has(name, field, value):
    config, shapes, family = FAMILIES[name]
    text = f"{value:,}" if value < 10**30 else "a number of more than 30 digits"
    with pytest.raises(ValueError, match=f"{field} is {text}, ") as caught:
        check_sizes("m", {**config, field: value}, family.SIZES, headers(shapes))
    assert len(str(caught.value).splitlines()) == 2


# What is no size is said by the families, which know what else a field may be.
@pytest.mark.parametrize("value", [0, -5, 1e9, "12", True, None, [2], float("nan")])
def test_what_is_no_whole_number_is_left_to_the_family(value):
    config, shapes, family = FAMILIES["bert"]
    config = {**config, "num_hidden_layers": value}
    check_sizes("m", config, family.SIZES, headers(shapes))
    with pytest.raises(ValueError, match=r"num_hidden_layers is .*, expected"):
        family.Config.from_hf(config)


@pytest.mark.parametrize(
    "layers, count, text",
    [
        ("0 1 2", 2, "layers 0 to 2"),
        ("0 2", 2, "layers 0, 2"),
        ("999999999", 10**9, "layers 999999999"),
        ("0 01", 2, "a layer 01"),
        ("9" * 5000, 1, "a layer 99999999999999999999$"),
    ],
)
def test_layers_are_counted_from_zero(layers, count, text):
    shapes = {f"layer.{layer}.weight": (4,) for layer in layers.split()}
    with pytest.raises(ValueError, match=f"n is {count:,}, the tensors have {text}"):
        check_sizes(
            "m", {"n": count}, (Size("n", r"layer\.(\d+)\..+"),), headers(shapes)
        )


def test_all_are_listed_and_nothing_is_built(tmp_path, monkeypatch):
    write_bert(tmp_path)
    change_config(tmp_path, num_hidden_layers=10**9, hidden_size=10**9)
    monkeypatch.delattr(jax, "eval_shape")
    with pytest.raises(ValueError) as caught:
        load.load(tmp_path)
    name = "bert.embeddings.word_embeddings.weight"
    assert str(caught.value) == (
        f"{tmp_path.name}: expected config.json to have the sizes of the tensors, but"
        "\n  num_hidden_layers is 1,000,000,000, the tensors have layers 0 to 1"
        f"\n  hidden_size is 1,000,000,000, {name} in model.safetensors has the shape "
        "(9, 8)"
    )


def test_heads_without_a_tensor_of_their_size(tmp_path):
    arrays = write_bert(tmp_path)
    change_config(tmp_path, num_hidden_layers=10**9)
    without = {name: array for name, array in arrays.items() if "layer" not in name}
    save_file(without, tmp_path / "model.safetensors")
    message = "num_hidden_layers is 1,000,000,000, the longest axis .* has 16$"
    with pytest.raises(ValueError, match=message):
        load.load(tmp_path)
