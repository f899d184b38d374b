"""Random models: of the shapes, dtypes and formats that a step stores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import quant, tree
from lora_jax.accounting import fitted_step
from lora_jax.accounting.random_model import random_model
from tests.accounting.test_fitted_step import STEP


@pytest.mark.parametrize("quantize", ["none", "nf4", "nf4_double"])
@pytest.mark.parametrize("model", ["tiny", "tiny-llama"])
def test_it_is_stored_as_the_step_says(model, quantize):
    step = STEP._replace(model=model, quantize=quantize, dtype="bfloat16")
    drawn = random_model(step)
    shapes = fitted_step.stored_model(step)
    assert jax.tree.structure(drawn) == jax.tree.structure(shapes)
    for left, right in zip(
        jax.tree.leaves(drawn), jax.tree.leaves(shapes), strict=True
    ):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)


def test_numbers_are_normal_and_norms_do_nothing():
    leaves = tree.leaves(random_model(STEP))
    kernel = leaves["blocks/mlp/up/kernel"]
    assert float(jnp.std(kernel)) == pytest.approx(0.02, rel=0.1)
    # No two leaves, and no two layers, are alike.
    assert not jnp.array_equal(kernel, leaves["blocks/mlp/gate/kernel"])
    assert not jnp.array_equal(kernel[0], kernel[1])
    assert (leaves["blocks/mlp_norm/scale"] == 1).all()


def test_a_quantized_matrix_is_a_normal_one():
    step = STEP._replace(quantize="nf4")
    model = random_model(step)
    path = "blocks/mlp/up/kernel"
    assert quant.is_quantized(tree.leaves(model)[path])
    numbers = np.array(tree.leaves(quant.dequantize_model(model))[path])
    assert numbers.std() == pytest.approx(0.02, rel=0.1)
    assert not np.array_equal(numbers[0], numbers[1])
