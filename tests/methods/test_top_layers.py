"""FT-Top2: which layers have a stack of their own, and how many parameters they have."""

from functools import partial

import jax
import numpy as np
import pytest

from lora_jax import accounting, methods, quant, tree
from lora_jax.models import gpt2

KEY = jax.random.key(0)


def test_the_last_layers_have_a_stack_of_their_own(tiny):
    base = tiny(layers=3)
    model = methods.top(1).adapt(KEY, base)
    kernels = tree.find(model, "query/kernel$")
    first = kernels["blocks/first/attention/query/kernel"]
    last = kernels["blocks/last/attention/query/kernel"]
    assert len(kernels) == 2
    assert (first.shape[0], last.shape[0]) == (2, 1)
    kernel = base.blocks.attention.query.kernel
    np.testing.assert_array_equal(np.concatenate([first, last]), kernel)

    # Nothing else is trained but the head.
    trainable, _ = tree.split(model, methods.mask(model, methods.top()))
    for path in tree.leaves(trainable):
        assert path.startswith(("blocks/last/", "head/"))


# 2 (12 d² + 13 d); Table 3 has 25.19 M for GPT-2 medium.
@pytest.mark.parametrize(
    ("name", "size"), [("gpt2-medium", 25_192_448), ("gpt2-large", 39_354_880)]
)
def test_parameters_are_the_closed_form_s(name, size):
    sizes = accounting.ARCHITECTURES[name]
    config = gpt2.Config(*sizes[2:8], epsilon=1e-5, activation="gelu_new")
    base = jax.eval_shape(partial(gpt2.init, config=config), KEY)
    model = jax.eval_shape(methods.top().adapt, KEY, base)
    assert methods.counts(model, methods.top()) == (size, 0)
    formula = accounting.FineTune(blocks=2)
    assert accounting.trainable_parameters(formula, name) == size


class TestOnAQuantizedBase:
    def test_the_last_layers_are_floats_and_the_first_keep_their_bits(self, tiny, same):
        base = quant.quantize_model(tiny(layers=3), "nf4")
        model = methods.top(2).adapt(KEY, base)
        quantized = quant.quantized_leaves(model)
        assert {path.split("/")[1] for path in quantized} == {"first"}

        value = quant.quantized_leaves(base)["blocks/mlp/up/kernel"]
        first = quantized["blocks/first/mlp/up/kernel"]
        last = model.blocks.last.mlp.up.kernel[...]
        np.testing.assert_array_equal(first.codes, value.codes[:1])
        np.testing.assert_array_equal(last, value.dequantize()[1:])
        # Stacks that are stored in two ways cannot be joined.
        assert same(methods.merge(model), model)

    def test_merged_into_the_original_it_is_one_stack_again(self, tiny):
        base = tiny(layers=3)
        model = methods.top(1).adapt(KEY, quant.quantize_model(base, "nf4"))
        merged = methods.merge(model, into="original", original=base)
        kernel = merged.blocks.mlp.up.kernel[...]
        original = base.blocks.mlp.up.kernel[...]
        np.testing.assert_array_equal(kernel[:2], original[:2])
        np.testing.assert_array_equal(kernel[2:], model.blocks.last.mlp.up.kernel[...])


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_a_number_of_layers_that_is_none_is_refused(number):
    text = rf"top_layers: expected an integer >= 1, got {number}$"
    with pytest.raises(ValueError, match=text):
        methods.top(number)


def test_more_layers_than_the_model_has_are_refused(tiny):
    text = r"top_layers: expected 1 <= top_layers <= 2, the model's layers, got 3$"
    with pytest.raises(ValueError, match=text):
        methods.top(3).adapt(KEY, tiny())


def test_a_model_without_one_stack_of_layers_is_refused(tiny):
    text = "top: expected a model with one stack of layers, `blocks`, got "
    with pytest.raises(ValueError, match=text + "none$"):
        methods.top().adapt(KEY, tiny().blocks)
    adapted = methods.top(1).adapt(KEY, tiny())
    with pytest.raises(ValueError, match=text + "Stacks$"):
        methods.top().adapt(KEY, adapted)
