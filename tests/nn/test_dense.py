"""The one product: quantized kernels, kernels of another dtype, and their gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from lora_jax import quant
from lora_jax.nn.dense import dense, materialize_in_order
from lora_jax.nn.layers import Embedding


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def total(x, kernel):
    """Return a number whose gradient depends on the product."""
    return jnp.sum(dense(x, kernel) ** 2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_has_the_dtype_of_its_input(dtype):
    x = jnp.ones((2, 3), dtype)
    kernel = jnp.ones((3, 4), jnp.float32)
    assert dense(x, kernel).dtype == dtype


class TestMixedDtypes:
    X = normal(0, 2, 5, 8)
    WEIGHTS = normal(1, 2, 5, 4)
    KERNEL = normal(2, 8, 4).astype(jnp.bfloat16)

    def test_the_factors_are_rounded_and_the_sum_is_not(self):
        product = dense(self.X, self.KERNEL)
        rounded = np.asarray(self.X.astype(jnp.bfloat16), np.float64)
        exact = rounded @ np.asarray(self.KERNEL, np.float64)
        # A sum in bfloat16 would be off by up to 4e-3.
        np.testing.assert_allclose(product, exact, rtol=1e-5, atol=1e-6)

    def test_the_input_of_a_frozen_kernel_is_not_kept(self):
        def kept_shapes(*arguments):
            _, pullback = jax.vjp(*arguments)
            return [leaf.shape for leaf in jax.tree.leaves(pullback)]

        frozen = kept_shapes(lambda x: dense(x, self.KERNEL), self.X)
        trained = kept_shapes(dense, self.X, self.KERNEL)
        assert self.X.shape not in frozen
        assert self.X.shape in trained

    def test_the_gradient_of_an_adapter_is_summed_in_float32(self):
        x = self.X.astype(jnp.bfloat16)
        adapter = self.KERNEL.astype(jnp.float32)

        def weighted(adapter):
            return jnp.sum(dense(x, adapter) * self.WEIGHTS)

        gradient = jax.grad(weighted)(adapter)
        rows = np.asarray(self.WEIGHTS.astype(jnp.bfloat16), np.float64)
        exact = np.einsum("bti,bto->io", np.asarray(x, np.float64), rows)
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient, exact, rtol=1e-5, atol=1e-5)

    # Of a frozen kernel the gradient is not even asked for.
    @pytest.mark.parametrize("arguments", [0, 1, (0, 1)])
    def test_gradients_of_a_bfloat16_kernel_are_those_of_float32_rounded(
        self, arguments
    ):
        def weighted(x, kernel):
            return jnp.sum(dense(x, kernel) * self.WEIGHTS)

        gradient = jax.grad(weighted, arguments)
        gradients = gradient(self.X, self.KERNEL)
        expected = gradient(self.X, self.KERNEL.astype(jnp.float32))
        gradients = jax.tree.leaves(gradients)
        expected = jax.tree.leaves(expected)

        # Products of bfloat16 have three digits.
        for narrow, exact in zip(gradients, expected, strict=True):
            argument = self.X if narrow.shape == self.X.shape else self.KERNEL
            assert narrow.dtype == argument.dtype
            np.testing.assert_allclose(
                narrow.astype(jnp.float32),
                exact,
                atol=0.05,
                rtol=0.02,
            )


class TestQuantizedKernel:
    @pytest.mark.parametrize("format", ["nf4", "int8"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_product_and_gradient_are_those_of_the_dequantized_matrix(
        self, format, dtype
    ):
        rng = np.random.default_rng(0)
        x = jnp.float32(rng.normal(size=(5, 3, 64)))
        w = jnp.float32(rng.normal(size=(64, 32)))
        value = quant.quantize(w.T, format)
        kernel = value.T.astype(dtype)
        plain = kernel.dequantize()
        assert kernel.shape == plain.shape == (64, 32)
        assert plain.dtype == dtype

        assert_close(dense(x, kernel), dense(x, plain))
        gradient = jax.grad(total)
        assert_close(gradient(x, kernel), gradient(x, plain))

    def test_the_base_gets_no_gradient(self):
        kernel = quant.quantize(jnp.ones((32, 32)), "nf4")
        x = jnp.ones((2, 32))

        def total_by_scales(scales):
            return dense(x, replace(kernel, scales=scales)).sum()

        gradient = jax.grad(total_by_scales)(kernel.scales)
        assert not np.any(gradient), "the gradient of a scale is not computed"


def assert_close(numbers, expected):
    np.testing.assert_allclose(
        numbers,
        expected,
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("block", [32, 64, 128])  # half a row, one row, two rows
def test_rows_of_a_quantized_embedding(block):
    rng = np.random.default_rng(0)
    table = jnp.float32(rng.normal(size=(50, 64)))
    value = quant.quantize(table, "nf4", block=block)
    tokens = jnp.array([[3, 0, 3], [49, 7, 1]])
    rows = Embedding(value)(tokens)
    plain = value.dequantize()
    np.testing.assert_array_equal(rows, plain[tokens])


def test_a_matrix_that_is_cut_over_devices_is_not_gathered():
    kernel = jnp.zeros((4, 6), jnp.bfloat16)
    assert materialize_in_order(kernel) is not kernel
    with jax.set_mesh(jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))):
        assert materialize_in_order(kernel) is kernel


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_materialized_matrix_is_the_same_matrix(dtype, same):
    kernel = jnp.arange(12.0).reshape(3, 4).astype(dtype)
    materialize = jax.jit(lambda kernel: materialize_in_order(kernel.T))
    assert same(materialize(kernel), kernel.T)
