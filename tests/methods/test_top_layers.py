"""FT-Top2: which layers are apart, on a quantized base too, and how many parameters they have."""

from functools import partial

import jax
import numpy as np
import pytest

from lora_jax import accounting, methods, quant, tree
from lora_jax.models import gpt2

KEY = jax.random.key(0)


def test_the_last_layers_are_apart_and_names_are_what_they_were(tiny):
    model = methods.top(1).adapt(KEY, tiny(layers=3))
    kernels = tree.find(model, "query/kernel$")
    assert {path: leaf.shape[0] for path, leaf in kernels.items()} == {
        "blocks/first/attention/query/kernel": 2,
        "blocks/last/attention/query/kernel": 1,
    }
    whole = tiny(layers=3).blocks.attention.query.kernel
    np.testing.assert_array_equal(np.concatenate(list(kernels.values())), whole)
    assert all(
        path.startswith(("blocks/last/", "head/"))
        for path in learning(model, methods.top())
    )


def learning(model, method):
    return tree.leaves(tree.split(model, methods.mask(model, method))[0])


@pytest.mark.parametrize(
    "name, size", [("gpt2-medium", 25_192_448), ("gpt2-large", 39_354_880)]
)
def test_parameters_are_the_closed_form_s(
    name, size
):  # 2 (12 d² + 13 d); Table 3 has 25.19 M for GPT-2 medium
    sizes = accounting.ARCHITECTURES[name]
    config = gpt2.Config(*sizes[2:8], epsilon=1e-5, activation="gelu_new")
    model = jax.eval_shape(
        methods.top().adapt, KEY, jax.eval_shape(partial(gpt2.init, config=config), KEY)
    )
    assert methods.counts(model, methods.top()) == (size, 0)
    assert size == accounting.trainable_parameters(accounting.FineTune(blocks=2), name)


class TestOnAQuantizedBase:
    def test_the_last_layers_are_floats_and_the_first_keep_their_bits(self, tiny, same):
        small = quant.quantize_model(tiny(layers=3), "nf4")
        model = methods.top(2).adapt(KEY, small)
        assert {path.split("/")[1] for path in quant.quantized_leaves(model)} == {
            "first"
        }
        value = quant.quantized_leaves(small)["blocks/mlp/up/kernel"]
        np.testing.assert_array_equal(
            quant.quantized_leaves(model)["blocks/first/mlp/up/kernel"].codes,
            value.codes[:1],
        )
        np.testing.assert_array_equal(
            model.blocks.last.mlp.up.kernel[...], value.dequantize()[1:]
        )
        assert same(methods.merge(model), model), (
            "stacks stored in two ways cannot be one"
        )

    def test_merged_into_the_original_it_is_one_stack_again(self, tiny):
        base = tiny(layers=3)
        model = methods.top(1).adapt(KEY, quant.quantize_model(base, "nf4"))
        merged = methods.merge(model, into="original", original=base)
        kernel, was = merged.blocks.mlp.up.kernel[...], base.blocks.mlp.up.kernel[...]
        np.testing.assert_array_equal(kernel[:2], was[:2])
        np.testing.assert_array_equal(kernel[2:], model.blocks.last.mlp.up.kernel[...])


@pytest.mark.parametrize("wrong", [0, -1, 1.5])
def test_a_number_of_layers_that_is_none_is_refused(wrong):
    with pytest.raises(
        ValueError, match=rf"top_layers: expected an integer >= 1, got {wrong}$"
    ):
        methods.top(wrong)


def test_more_layers_than_there_are_are_refused(tiny):
    with pytest.raises(
        ValueError,
        match=r"top_layers: expected 1 <= top_layers <= 2, the model's layers, got 3$",
    ):
        methods.top(3).adapt(KEY, tiny())


def test_a_model_without_one_stack_of_layers_is_refused(tiny):
    with pytest.raises(
        ValueError,
        match=r"top: expected a model with one stack of layers, `blocks`, got none$",
    ):
        methods.top().adapt(KEY, tiny().blocks)
    with pytest.raises(ValueError, match=r"one stack of layers, `blocks`, got Stacks$"):
        methods.top().adapt(KEY, methods.top(1).adapt(KEY, tiny()))
