"""A quantized matrix behaves as the matrix it stands for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lora_jax import quant, tree
from lora_jax.checkpoints import training_state
from lora_jax.quant import CODECS, Quantized, Scales
from tests.quant.numbers import dequantize, normal, quantize, row, rows_of

VARIANTS = [(codec, False) for codec in CODECS]
VARIANTS.append(("nf4", True))


W = normal(6, 64)
OTHER_W = normal(6, 64, seed=1)
STACK = normal(2, 6, 64)


@pytest.mark.parametrize("codec, double", VARIANTS)
class TestValue:
    @pytest.fixture
    def encode(self, codec, double) -> Callable[..., Quantized]:
        """`encode(w)` is quantized in blocks of 32."""
        return partial(quantize, codec=codec, block=32, double=double)

    @pytest.fixture
    def value(self, encode) -> Quantized:
        return encode(W)

    def test_its_transpose_moves_nothing(self, value):
        transpose = value.T
        assert transpose.shape == (64, 6)
        assert transpose.codes is value.codes
        numbers = dequantize(value)
        assert (dequantize(transpose) == numbers.T).all()
        assert value == transpose.T

    def test_two_values_are_equal_if_all_their_bits_are(self, value, encode, double):
        again = encode(W)
        assert value.codes is not again.codes
        assert value.scales is not again.scales
        assert value == again
        assert hash(value) == hash(again)

        assert value != encode(OTHER_W)
        assert value != encode(W, block=64)
        assert value != encode(W, double=not double)
        assert value != value.T
        assert value != value.astype("bfloat16")
        assert value != "nf4"

    def test_values_of_shapes_can_be_compared(self, value, encode):
        again = encode(W)
        shapes = jax.eval_shape(lambda: value)
        assert shapes == jax.eval_shape(lambda: again)
        assert shapes != value

    def test_another_dtype_is_of_the_same_bits(self, value, same):
        half = value.astype("bfloat16")
        assert half.dtype == jnp.bfloat16
        assert half.codes is value.codes
        numbers = dequantize(value)
        rounded = numbers.astype(jnp.bfloat16)
        assert same(dequantize(half), rounded)

    def test_rows(self, value):
        index = jnp.array([[0, 5, 3], [3, 3, 1]])
        half = value.astype("bfloat16")
        for variant in (value, value.T, half):
            rows = rows_of(variant, index)
            numbers = dequantize(variant)
            assert rows.dtype == variant.dtype
            assert (rows == numbers[index]).all()

    def test_a_single_row(self, value):
        row = rows_of(value, jnp.array(4))
        numbers = dequantize(value)
        assert (row == numbers[4]).all()

    def test_rows_of_an_odd_number(self, encode):
        # The half of the codes ends within the third row.
        value = encode(normal(5, 64))
        index = jnp.array([[4, 2], [2, 0], [1, 3]])
        numbers = dequantize(value)
        assert (rows_of(value, index) == numbers[index]).all()

    def test_rows_in_another_order(self, encode, same):
        if isinstance(encode(normal(5, 64)).scales, Scales):
            return  # 256 of them share a scale: no row has its own
        for rows in (5, 6):
            w = normal(rows, 64)
            order = np.roll(np.arange(rows), 2)
            assert same(encode(w).reorder_rows(order), encode(w[order]))

    def test_rows_that_are_no_whole_blocks(self, encode):
        value = encode(normal(5, 33))
        index = jnp.array([4, 0])
        numbers = dequantize(value)
        assert_close(rows_of(value, index), numbers[index])

    def test_a_stack_is_a_value_for_each_matrix(self, encode, same):
        # 165 numbers a matrix: neither whole blocks nor whole bytes
        stack = normal(2, 3, 5, 33)
        value = encode(stack)
        assert value.shape == (2, 3, 5, 33)
        assert value.T.shape == (2, 3, 33, 5)

        numbers = dequantize(value)
        transposed = dequantize(value.T)
        for index in np.ndindex(2, 3):
            single = encode(stack[index])
            assert same(select(value, index), single)
            expected = dequantize(single)
            assert_close(numbers[index], expected)
            assert_close(transposed[index], expected.T)

    def test_quantize_like(self, value, encode, same):
        other = jnp.array(OTHER_W)
        expected = encode(OTHER_W)
        assert same(value.quantize_like(other), expected)
        transposed = value.T.quantize_like(other.T)
        assert same(transposed, expected.T)

    def test_matrices_are_quantized_under_vmap(self, encode, same):
        mapped = jax.jit(jax.vmap(encode))
        assert same(mapped(jnp.array(STACK)), encode(STACK))

    def test_a_stack_is_dequantized_under_vmap_and_scan(self, encode):
        value = encode(STACK)
        numbers = dequantize(value)
        mapped = jax.vmap(dequantize)(value)
        assert_close(mapped, numbers)

        def step(carry, matrix):
            return carry, matrix.T.dequantize()

        _, scanned = jax.lax.scan(step, None, value)
        assert_close(jnp.swapaxes(scanned, 1, 2), numbers)

    def test_it_is_stacked(self, encode, same):
        value = encode(STACK)
        matrices = tree.unstack(value)
        assert same(tree.stack(matrices), value)

    def test_compiled_it_is_the_same(self, value):
        assert_close(value.dequantize(), dequantize(value))

    def test_it_is_sharded(self, encode, same):
        value = encode(STACK)
        devices = jax.devices()[:2]
        mesh = Mesh(np.array(devices), "layers")
        sharding = NamedSharding(mesh, PartitionSpec("layers"))
        sharded = jax.device_put(value, sharding)

        for leaf in jax.tree.leaves(sharded):
            assert leaf.sharding.device_set == set(devices)
        assert same(sharded, value)
        assert same(dequantize(sharded), dequantize(value))

    def test_it_is_saved(self, encode, same, tmp_path):
        folder = tmp_path / "state"
        value = encode(STACK)
        kernel = {"kernel": value.T}
        training_state.save(folder, 1, kernel, {"step": 1})
        restored = training_state.restore(folder, kernel)
        assert restored is not None
        assert same(restored[0], kernel)


def select(stack: Any, index: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], stack)


def assert_close(numbers: Any, expected: Any) -> None:
    # Compiled, a product and a sum are one rounding: results may differ by that much.
    np.testing.assert_allclose(
        numbers,
        expected,
        rtol=0,
        atol=5e-7,
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_weight_in_half_precision_is_quantized_as_in_float32(dtype, same):
    w = jnp.array(normal(8, 64)).astype(dtype)
    value = quantize(w, "nf4")
    assert value.dtype == w.dtype
    assert dequantize(value).dtype == w.dtype
    wide = quantize(w.astype(jnp.float32), "nf4")
    assert same(value.astype("float32"), wide)


def test_the_default_block_is_64_and_for_int8_a_row():
    w = normal(5, 70)
    assert quantize(w, "nf4").block == 64
    value = quantize(w, "int8")
    assert value.block == 70
    assert value.scales.shape == (5,)
    largest = np.abs(w).max(1)
    np.testing.assert_allclose(value.scales, largest / 127, rtol=1e-6)


def test_doubly_quantized_scales_are_a_value_of_their_own():
    assert isinstance(quantize(normal(5, 70), "nf4", double=True).scales, Scales)
    assert not isinstance(quantize(normal(5, 70), "nf4").scales, Scales)


BAD_OPTIONS = [
    ({"codec": "nf5"}, "codec: expected one of nf4, fp4, int4, int4_affine, int8"),
    ({"block": 0}, "block: expected a power of two from 32 to 4096, got 0"),
    ({"block": 48}, "block: expected a power of two from 32 to 4096, got 48"),
    ({"block": 8192}, "block: expected a power of two from 32 to 4096, got 8192"),
    ({"block": True}, "block: expected a power of two from 32 to 4096, got True"),
]


@pytest.mark.parametrize("options, message", BAD_OPTIONS)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError) as caught:
        quantize(normal(2, 32), **{"codec": "nf4"} | options)
    if "codec" in options:
        message += f", got {options['codec']!r}"
    assert str(caught.value) == message


NOT_A_MATRIX = "expected a matrix of floating-point numbers, got"
IN_RANGE = "expected weights whose largest magnitude is 0 or in 1e-28 … 1e+28"
BAD_WEIGHTS = [
    (normal(64), f"{NOT_A_MATRIX} float32 (64,)"),
    (normal(0, 32), f"{NOT_A_MATRIX} float32 (0, 32)"),
    (np.ones((2, 32), np.int32), f"{NOT_A_MATRIX} int32 (2, 32)"),
    (row(np.nan, np.inf), "expected finite weights, got 2 that are NaN or infinite"),
    (row(-3e38, 1.0), f"{IN_RANGE}, got 3e+38"),
    (row(1e-30, 0.0), f"{IN_RANGE}, got 1e-30"),
    # A subnormal number, which XLA takes as 0.
    (row(1e-40, 0.0), f"{IN_RANGE}, got 9.99995e-41"),
]


@pytest.mark.parametrize("w, message", BAD_WEIGHTS)
def test_weights_that_cannot_be_quantized_are_errors(w, message):
    with pytest.raises(ValueError) as caught:
        quant.quantize(w, "nf4")
    assert str(caught.value) == message


@pytest.mark.parametrize("codec", quant.CODECS)
@pytest.mark.parametrize("size", [1e-28, 1e28])
@pytest.mark.parametrize("double", [False, True])
def test_the_largest_and_the_smallest_weights_keep_their_precision(codec, size, double):
    """As near to what they stand for as weights of size 1."""
    w = np.clip(normal(64, 128), -1, 1)
    errors = []
    for factor in (1.0, size):
        scaled = (w * np.float64(factor)).astype(np.float32)
        stored = quant.quantize(jnp.asarray(scaled), codec, double=double)
        difference = np.asarray(stored.dequantize(), np.float64) - scaled
        errors.append(np.abs(difference).max() / factor)
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
