"""Which leaves of a model are quantized, how, and back again."""

import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import quant, tree
from lora_jax.checkpoints import placement
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import bert
from lora_jax.quant import CODECS, Scales, Spec
from tests.quant.numbers import dequantize, quantize

BODY = [
    "blocks/attention/key/kernel",
    "blocks/attention/output/kernel",
    "blocks/attention/query/kernel",
    "blocks/attention/value/kernel",
    "blocks/mlp/down/kernel",
    "blocks/mlp/up/kernel",
]


class TestQuantizeModel:
    def test_the_matrices_of_the_blocks_are_quantized_as_by_bitsandbytes(
        self, tiny, same
    ):
        model = tiny()
        plain = tree.leaves(model)
        quantized = quant.quantize_model(model, "nf4")
        values = quant.quantized_leaves(quantized)
        assert sorted(values) == BODY
        assert tree.count(quantized) == tree.count(model)
        for path, value in values.items():
            assert value.shape == plain[path].shape
            # Blocks run along the rows of torch's weight [out, in].
            assert value.transposed
            torch_weight = plain[path].swapaxes(1, 2)
            assert same(value, quantize(torch_weight, "nf4").T)

    def test_other_leaves_stay_as_they_are(self, tiny, same):
        plain = tree.leaves(tiny())
        leaves = tree.leaves(quant.quantize_model(tiny(), "nf4"))
        assert list(leaves) == list(plain)
        for path, leaf in leaves.items():
            if path not in BODY:
                assert same(leaf, plain[path])

    def test_a_spec_says_paths_block_and_double_quantization(self, tiny):
        spec = Spec("int8", 32, double=True, paths="^embed/tokens|query/kernel$")
        quantized = quant.quantize_model(tiny(), spec)
        values = quant.quantized_leaves(quantized)
        assert sorted(values) == [
            "blocks/attention/query/kernel",
            "embed/tokens/embedding",
        ]
        assert not values["embed/tokens/embedding"].transposed
        for value in values.values():
            assert value.codec == "int8"
            assert value.block == 32
            assert isinstance(value.scales, Scales)

    def test_quantized_leaves_stay_as_they_are(self, tiny, same):
        once = quant.quantize_model(tiny(), "nf4")
        twice = quant.quantize_model(once, "int8")
        assert same(twice, once)

    def test_a_pattern_that_matches_nothing_is_an_error(self, tiny):
        message = r"^'lstm' matches no leaf; there are: .*kernel"
        with pytest.raises(ValueError, match=message):
            quant.quantize_model(tiny(), Spec("nf4", paths="lstm"))

    @pytest.mark.parametrize("number", [np.nan, -np.inf])
    def test_a_number_that_is_not_finite_is_named_by_path(self, tiny, number):
        path = "blocks/attention/query/kernel"
        kernel = np.array(tree.leaves(tiny())[path])
        kernel[0, 0, 0] = number
        broken = tree.replace(tiny(), {path: kernel})
        with pytest.raises(ValueError) as caught:
            quant.quantize_model(broken, "nf4")
        assert str(caught.value) == (
            f"{path}: expected finite weights, got 1 that are NaN or infinite"
        )

    def test_it_is_found_in_any_layer(self, tiny):
        path = "blocks/mlp/up/kernel"
        kernel = tree.leaves(tiny())[path]
        broken = tree.replace(tiny(), {path: kernel.at[1, 2, 3].set(jnp.nan)})
        message = f"{path}: expected finite weights, got 1 that are NaN or infinite"
        with pytest.raises(ValueError, match=message):
            quant.quantize_model(broken, "nf4")

    def test_a_vector_is_named_by_path(self, tiny):
        with pytest.raises(ValueError) as caught:
            quant.quantize_model(tiny(), Spec("nf4", paths="embed/norm/bias$"))
        assert str(caught.value) == (
            "embed/norm/bias: expected a matrix of floating-point numbers, "
            "got float32 (16,)"
        )


def test_a_dequantized_model_has_the_numbers_it_stood_for(tiny):
    quantized = quant.quantize_model(tiny(), "fp4")
    plain = quant.dequantize_model(quantized)
    assert not quant.quantized_leaves(plain)
    arrays = tree.leaves(plain)
    for path, value in quant.quantized_leaves(quantized).items():
        assert (arrays[path] == dequantize(value)).all()


class TestBitsPerParameter:
    def test_of_a_model_in_one_format(self, tiny):
        model = quant.quantize_model(tiny(), "nf4")
        assert quant.bits_per_parameter(model) == 4.5

    def test_of_a_model_in_two_formats(self, tiny):
        up = Spec("nf4", paths="mlp/up/kernel")
        model = quant.quantize_model(tiny(), up)
        model = quant.quantize_model(model, "int8")
        # In each layer 512 numbers have 4.5 bits. In 8 bits are four matrices of 16
        # rows of 16 and one of 16 rows of 32, with a scale of 32 bits a row.
        bits = 512 * 4.5 + (1024 + 512) * 8 + 5 * 16 * 32
        assert quant.bits_per_parameter(model) == bits / 2048


class TestFindSpec:
    def test_every_codec_is_a_format_and_two_are_doubly_quantized(self):
        assert set(quant.FORMATS) == {*CODECS, "nf4_double", "fp4_double"}
        expected = Spec("nf4", None, True, quant.BODY)
        assert quant.find_spec("nf4_double") == expected

    def test_a_spec_is_returned_as_it_is(self):
        spec = Spec("int4", 128)
        assert quant.find_spec(spec) is spec

    def test_an_unknown_name_is_an_error(self):
        names = ", ".join(quant.FORMATS)
        with pytest.raises(ValueError) as caught:
            quant.find_spec("nf3")
        assert str(caught.value) == f"quantize: expected one of {names}, got 'nf3'"


class TestLoading:
    def test_tensor_by_tensor_is_the_whole_model_quantized(self, tiny, config, same):
        leaves = tree.leaves(tiny("bert", 3))
        tensors = {}
        expected = {}
        spec = Spec("nf4", block=32, double=True)
        for layer_name in ("query", "key", "value"):
            path = f"blocks/attention/{layer_name}/kernel"
            expected[path] = spec(path, leaves[path])
            for index, kernel in enumerate(np.asarray(leaves[path])):
                name = f"encoder.layer.{index}.attention.self.{layer_name}.weight"
                tensors[name] = tensor_of(kernel.T)

        abstract = {path: leaves[path] for path in expected}
        rules = bert.rules(config("bert"))
        loaded = placement.load(tensors, rules, abstract, convert=spec)
        assert same(loaded, expected)


def tensor_of(array: np.ndarray) -> Tensor:
    return Tensor("here", array.shape, array.dtype, lambda: array)
