"""Few-bit weights against hand-made examples, definitions written out in numpy, published errors and the arrays' own rules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lora_jax import quant, tree
from lora_jax.checkpoints import training_state
from lora_jax.quant import CODECS, Quantized, Scales, Spec
from lora_jax.quant.formats import DYNAMIC, FP4, NF4, pack, unpack

quantize: Any = quant.quantize
SYMMETRIC = ("nf4", "fp4", "int4", "int8")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


numbers_of, rows_of = jax.jit(Quantized.dequantize), jax.jit(Quantized.rows)


def row(*numbers: float, rest: float = 0.0) -> np.ndarray:
    """A matrix of one row, one block of 32."""
    return np.array([[*numbers, *[rest] * (32 - len(numbers))]], np.float32)


def nearest(scaled: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The code of the nearest number of a table; half way between two, the lower."""
    order = np.argsort(table, kind="stable")
    return order[
        np.searchsorted((table[order][1:] + table[order][:-1]) / np.float32(2), scaled)
    ].astype(np.uint8)


def by_definition(
    numbers: np.ndarray, table: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of numbers in a row, block after block in float32."""
    blocks = [numbers[i : i + block] for i in range(0, len(numbers), block)]
    scales = np.array([np.abs(part).max() for part in blocks])
    units = [
        np.clip(part * (1 / np.maximum(s, np.float32(1e-38))), -1, 1)
        for part, s in zip(blocks, scales, strict=True)
    ]
    return np.concatenate([nearest(part, table) for part in units]), scales


def of_codes(
    codes: np.ndarray, scales: np.ndarray, table: np.ndarray, block: int
) -> np.ndarray:
    return table[codes] * np.repeat(scales, block)[: len(codes)]


@pytest.mark.parametrize(
    "kind, w, scale, minimum, stored, numbers",
    [
        # 2, -2, 1, 0 in units of 2; 0.5 is nearer to 0.4407 (code 12) than to 0.5626
        (
            "nf4",
            row(2, -2, 1, 0),
            2,
            None,
            [0xF0, 0xC7, *[0x77] * 14],
            [2, -2, 2 * 0.44070982933044434, 0],
        ),
        (
            "fp4",
            row(12, -12, 6, 0.7),
            12,
            None,
            [0x3B, 0x51, *[0x00] * 14],
            [12, -12, 6, 0.0625],
        ),
        (
            "int4",
            row(7, -7, 3.4, -0.6),
            1,
            None,
            [0xF1, 0xB7, *[0x88] * 14],
            [7, -7, 3, -1],
        ),
        (
            "int4_affine",
            row(-1, 14, 0, 6.4, rest=3),
            1,
            -1,
            [0x0F, 0x17, *[0x44] * 14],
            [-1, 14, 0, 6],
        ),
        (
            "int8",
            row(127, -127, 3.4, -0.6),
            1,
            None,
            [127, -127, 3, -1, *[0] * 28],
            [127, -127, 3, -1],
        ),
    ],
)
def test_one_block_by_hand(kind, w, scale, minimum, stored, numbers):
    value = quantize(w, kind, block=32)
    assert value.codes.dtype == (np.int8 if kind == "int8" else np.uint8)
    assert value.codes.tolist() == stored
    assert value.scales.tolist() == [scale]
    assert (
        value.minima is None if minimum is None else value.minima.tolist() == [minimum]
    )
    np.testing.assert_allclose(value.dequantize()[0, :4], numbers, rtol=1e-6)
    assert (value.shape, value.ndim, value.size, value.dtype) == (
        (1, 32),
        2,
        32,
        np.float32,
    )


def test_the_first_of_two_codes_is_in_the_high_bits():
    assert pack(jnp.uint8([1, 2, 15, 0])).tolist() == [0x12, 0xF0]
    assert pack(jnp.uint8([[1, 2, 3], [4, 5, 6]])).tolist() == [
        [0x12, 0x30],
        [0x45, 0x60],
    ]
    assert pack(jnp.uint8([1, 2, 3]), 7).tolist() == [0x12, 0x37]
    assert (
        quantize(normal(3, 35), "nf4").codes[-1] & 15 == 7
    )  # as bitsandbytes fills an odd end
    assert unpack(jnp.uint8([[0x12, 0x30]])).tolist() == [[1, 2, 3, 0]]


def test_a_block_of_zeros_stays_zeros():
    for kind, code in {
        "nf4": 0x77,
        "fp4": 0x00,
        "int4": 0x88,
        "int4_affine": 0x00,
        "int8": 0,
    }.items():
        value = quantize(np.zeros((2, 32), np.float32), kind, block=32)
        assert set(value.codes.tolist()) == {code} and value.scales.tolist() == [0, 0]
        assert (numbers_of(value) == 0).all()


@pytest.mark.parametrize("kind", CODECS)
def test_a_last_block_that_is_not_full_has_its_own_scale(kind):
    w = normal(3, 35)  # 105 numbers: three blocks and 9 more, an odd count
    w[2, -9:] *= 100
    value = quantize(w, kind, block=32)
    assert value.codes.shape == (
        (105,) if kind == "int8" else (53,)
    ) and value.scales.shape == (4,)
    alone = quantize(w[2:, -9:], kind, block=32)
    assert numbers_of(value).shape == (3, 35)
    np.testing.assert_allclose(
        numbers_of(value)[2, -9:], numbers_of(alone)[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    "kind, table, block",
    [*(("nf4", NF4, block) for block in quant.BLOCKS), ("fp4", FP4, 64)],
)
def test_codes_scales_and_numbers_are_those_of_the_definition_to_the_bit(
    kind, table, block
):
    w = normal(65, 127, seed=block)  # ragged and odd whatever the block
    value = quantize(w, kind, block=block)
    codes, scales = by_definition(w.reshape(-1), table, block)
    assert (np.asarray(value.scales) == scales).all()
    assert (unpack(value.codes)[: w.size] == codes).all()
    assert (
        numbers_of(value) == of_codes(codes, scales, table, block).reshape(w.shape)
    ).all()


def test_double_quantisation_is_that_of_the_definition():
    w = normal(70, 512)  # 560 scales: two blocks of 256 and a ragged one
    value, single = quantize(w, "nf4", double=True), quantize(w, "nf4")
    assert isinstance(value.scales, Scales)
    offset = np.asarray(value.scales.offset)
    np.testing.assert_allclose(offset, np.float64(single.scales).mean(), rtol=1e-6)
    codes, most = by_definition(np.asarray(single.scales) - offset, DYNAMIC, 256)
    # Compiled, a product and a difference are one rounding: the offset's last bit, at times another neighbour.
    np.testing.assert_allclose(value.scales.scales, most, rtol=0, atol=2.0**-22)
    off = np.abs(np.asarray(value.scales.codes).astype(int) - codes)
    assert off.max() <= 1 and off.mean() < 0.005
    own = (
        of_codes(
            np.asarray(value.scales.codes),
            np.asarray(value.scales.scales),
            DYNAMIC,
            256,
        )
        + offset
    )
    assert (value.scales.dequantize() == own).all()
    assert (value.codes == single.codes).all()
    half_step = np.diff(DYNAMIC).max() / 2
    assert (
        np.abs(own - single.scales) <= 1.001 * half_step * np.repeat(most, 256)[:560]
    ).all()


def test_doubly_quantized_scales_are_equal_if_all_their_bits_are():
    scales = quantize(normal(6, 64), "nf4", double=True).scales
    again = quantize(normal(6, 64), "nf4", double=True).scales
    assert scales == again and hash(scales) == hash(again)
    assert scales != quantize(normal(6, 64, seed=1), "nf4", double=True).scales
    assert scales != quantize(normal(6, 64), "nf4").scales.tolist()


def test_the_table_of_double_quantisation():
    assert len(set(DYNAMIC.tolist())) == 256 and DYNAMIC[127] == 0 and DYNAMIC[-1] == 1
    assert DYNAMIC[0] == -DYNAMIC[-2] and abs(DYNAMIC[0] + 0.99296874) < 1e-7
    np.testing.assert_allclose(
        DYNAMIC[128:131], [5.5e-7, 3.25e-6, 7.75e-6], rtol=1e-6
    )  # 0.55; 0.325, 0.775


# bitsandbytes on 1024 x 1024 numbers N(0, 1), mean of 200 samples: mean |error|, mean |error| / |number|
@pytest.mark.parametrize(
    "kind, block, absolute, relative",
    [
        ("nf4", 32, 0.067746, 0.189726),
        ("fp4", 32, 0.088925, 0.242443),
        ("nf4", 64, 0.072798, 0.203339),
        ("fp4", 64, 0.096543, 0.260125),
        ("nf4", 128, 0.076831, 0.215237),
        ("fp4", 128, 0.102969, 0.275817),
        ("nf4", 256, 0.080337, 0.226105),
        ("fp4", 256, 0.108684, 0.289831),
    ],
)
def test_errors_are_those_of_bitsandbytes(kind, block, absolute, relative):
    w = normal(1024, 1024)
    error = np.abs(np.asarray(numbers_of(quantize(w, kind, block=block))) - w)
    assert abs(error.mean() - absolute) < 3e-4  # four standard deviations of one sample
    assert abs((error / (np.abs(w) + 1e-8)).mean() - relative) < 1e-3
    if (kind, block) == ("nf4", 64):
        assert abs(np.sqrt((error**2).mean()) - 0.0920) < 3e-4


def test_bits_and_bytes():
    w = normal(1024, 1024)
    n = w.size
    assert quantize(w, "nf4").nbytes == n // 2 + 4 * n // 64
    assert quant.bits_per_parameter(quantize(w, "nf4")) == 4.5
    double = quantize(w, "nf4", double=True)
    assert double.nbytes == n // 2 + n // 64 + 4 * n // (64 * 256) + 4
    assert round(quant.bits_per_parameter(double), 3) == 4.127  # QLoRA, section 3
    assert quant.bits_per_parameter(quantize(w, "int4_affine")) == 5
    assert (
        quant.bits_per_parameter(quantize(w, "int8")) == 8 + 32 / 1024
    )  # a scale a row


@pytest.mark.parametrize(
    "kind, double", [*((kind, False) for kind in CODECS), ("nf4", True)]
)
class TestValue:
    @pytest.fixture
    def value(self, kind, double) -> Quantized:
        return quantize(normal(6, 64), kind, block=32, double=double)

    def test_its_transpose_moves_nothing(self, value):
        assert value.T.shape == (64, 6) and value.T.codes is value.codes
        assert (numbers_of(value.T) == numbers_of(value).T).all()
        assert value == value.T.T

    def test_two_values_are_equal_if_all_their_bits_are(self, value, kind, double):
        again = quantize(normal(6, 64), kind, block=32, double=double)
        assert value == again and hash(value) == hash(again)
        assert value.codes is not again.codes
        assert value.scales is not again.scales

        assert value != quantize(normal(6, 64, seed=1), kind, block=32, double=double)
        assert value != value.T
        assert value != value.astype("bfloat16")
        assert value != quantize(normal(6, 64), kind, block=64, double=double)
        assert value != quantize(normal(6, 64), kind, block=32, double=not double)
        assert value != "nf4"

        shapes = jax.eval_shape(lambda: value)
        assert shapes == jax.eval_shape(lambda: again)
        assert shapes != value

    def test_another_dtype_is_of_the_same_bits(self, value, same):
        half = value.astype("bfloat16")
        assert half.dtype == jnp.bfloat16 and half.codes is value.codes
        assert same(numbers_of(half), numbers_of(value).astype(jnp.bfloat16))

    def test_rows(self, value):
        index = jnp.array([[0, 5, 3], [3, 3, 1]])
        for of in (value, value.T, value.astype("bfloat16")):
            found = rows_of(of, index)
            assert found.dtype == of.dtype and (found == numbers_of(of)[index]).all()
        assert (rows_of(value, jnp.array(4)) == numbers_of(value)[4]).all()

    def test_a_stack_is_each_matrix_apart(self, kind, double, same):
        stack = normal(
            2, 3, 5, 33
        )  # 165 numbers a matrix: neither whole blocks nor whole bytes
        value = quantize(stack, kind, block=32, double=double)
        assert value.shape == (2, 3, 5, 33) and value.T.shape == (2, 3, 33, 5)
        for i in np.ndindex(2, 3):
            alone = quantize(stack[i], kind, block=32, double=double)
            assert same(jax.tree.map(lambda leaf, i=i: leaf[i], value), alone)
            np.testing.assert_allclose(
                numbers_of(value)[i], numbers_of(alone), rtol=0, atol=5e-7
            )
            np.testing.assert_allclose(
                numbers_of(value.T)[i], numbers_of(alone).T, rtol=0, atol=5e-7
            )
        alone, index = (
            quantize(stack[0, 0], kind, block=32, double=double),
            jnp.array([4, 0]),
        )
        np.testing.assert_allclose(
            rows_of(alone, index), numbers_of(alone)[index], rtol=0, atol=5e-7
        )

    def test_like(self, value, same):
        other = normal(6, 64, seed=1)
        wanted = quantize(
            other, value.codec, block=32, double=isinstance(value.scales, Scales)
        )
        assert same(value.quantize_like(jnp.array(other)), wanted)
        assert same(value.T.quantize_like(jnp.array(other.T)), wanted.T)

    def test_transforms(self, value, kind, double, same):
        stack = jnp.array(normal(2, 6, 64))
        stacked = quantize(stack, kind, block=32, double=double)
        assert same(
            jax.jit(jax.vmap(lambda w: quantize(w, kind, block=32, double=double)))(
                stack
            ),
            stacked,
        )
        _, scanned = jax.lax.scan(
            lambda _, one: (None, one.T.dequantize()), None, stacked
        )
        for numbers in (jax.vmap(numbers_of)(stacked), jnp.swapaxes(scanned, 1, 2)):
            np.testing.assert_allclose(numbers, numbers_of(stacked), rtol=0, atol=5e-7)
        # Compiled, a product and a sum are one rounding.
        np.testing.assert_allclose(
            value.dequantize(), numbers_of(value), rtol=0, atol=5e-7
        )
        assert same(tree.stack(tree.unstack(stacked)), stacked)

    def test_it_is_sharded_and_saved_as_arrays_are(self, kind, double, same, tmp_path):
        value = quantize(normal(2, 6, 64), kind, block=32, double=double)
        over = NamedSharding(
            Mesh(np.array(jax.devices()[:2]), "layers"), PartitionSpec("layers")
        )
        spread = jax.device_put(value, over)
        assert all(
            leaf.sharding.device_set == set(jax.devices()[:2])
            for leaf in jax.tree.leaves(spread)
        )
        assert same(spread, value) and same(numbers_of(spread), numbers_of(value))
        training_state.save(tmp_path / "state", 1, {"kernel": value.T}, {"step": 1})
        found = training_state.restore(tmp_path / "state", {"kernel": value.T})
        assert found is not None and same(found[0], {"kernel": value.T})


SHAPES = st.sampled_from([(1, 1), (3, 35), (2, 5, 7)])
SEEDS, EXPONENTS = st.integers(0, 2**32 - 1), st.integers(-20, 20)


def drawn(shape, seed, exponent) -> np.ndarray:
    """Normal numbers around 10^exponent, a third of them exactly 0."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=shape) * (rng.random(shape) < 0.67) * 10.0**exponent
    ).astype(np.float32)


def each(numbers: np.ndarray, value: Quantized) -> np.ndarray:
    """Something of each block [..., blocks] for each of its numbers [..., a, b]."""
    n = int(np.prod(value.stored))
    return np.repeat(np.asarray(numbers), value.block, axis=-1)[..., :n].reshape(
        value.shape
    )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(CODECS)), SHAPES, SEEDS, EXPONENTS)
def test_an_error_is_at_most_half_a_step(kind, shape, seed, exponent):
    w = drawn(shape, seed, exponent)
    value = quantize(w, kind, block=32)
    error, scale = np.abs(np.asarray(numbers_of(value)) - w), each(value.scales, value)
    table = {"nf4": NF4, "fp4": FP4}.get(kind)
    # Of a table's numbers none is nearer.
    least = (
        scale / 2
        if table is None
        else np.abs(w[..., None] - scale[..., None] * table).min(-1)
    )
    assert (error <= least + 2e-6 * np.maximum(scale, np.abs(w))).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(CODECS)), SHAPES, SEEDS, EXPONENTS)
def test_what_was_dequantised_is_quantised_to_itself(kind, shape, seed, exponent):
    once = numbers_of(quantize(drawn(shape, seed, exponent), kind, block=32))
    again = numbers_of(quantize(once, kind, block=32))
    np.testing.assert_allclose(
        again, once, rtol=2e-6, atol=2e-6 * float(jnp.abs(once).max())
    )


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SYMMETRIC), SHAPES, SEEDS, EXPONENTS)
def test_zeros_stay_zeros_and_no_sign_changes(kind, shape, seed, exponent):
    w = drawn(shape, seed, exponent)
    numbers = np.asarray(numbers_of(quantize(w, kind, block=32)))
    assert (numbers[w == 0] == 0).all() and (numbers * np.sign(w) >= 0).all()


@pytest.mark.parametrize("given_dtype", ["bfloat16", "float16"])
def test_a_weight_in_half_precision_is_taken_as_the_float32_it_is(given_dtype, same):
    w = jnp.array(normal(8, 64)).astype(given_dtype)
    value, wide = quantize(w, "nf4"), quantize(w.astype(jnp.float32), "nf4")
    assert value.dtype == w.dtype and numbers_of(value).dtype == w.dtype
    assert same(value.astype("float32"), wide)


def test_int8_has_a_scale_a_row_unless_told_otherwise():
    value = quantize(normal(5, 70), "int8")
    assert value.block == 70 and value.scales.shape == (5,)
    np.testing.assert_allclose(
        value.scales, np.abs(normal(5, 70)).max(1) / 127, rtol=1e-6
    )
    assert quantize(normal(5, 70), "nf4").block == 64


@pytest.mark.parametrize(
    "w, options, text",
    [
        (
            normal(2, 32),
            dict(codec="nf5"),
            "codec: expected one of nf4, fp4, int4, int4_affine, int8, got 'nf5'",
        ),
        (
            normal(2, 32),
            dict(block=0),
            "block: expected a power of two from 32 to 4096, got 0",
        ),
        (
            normal(2, 32),
            dict(block=48),
            "block: expected a power of two from 32 to 4096, got 48",
        ),
        (
            normal(2, 32),
            dict(block=8192),
            "block: expected a power of two from 32 to 4096, got 8192",
        ),
        (
            normal(2, 32),
            dict(block=True),
            "block: expected a power of two from 32 to 4096, got True",
        ),
        (
            normal(64),
            {},
            "expected a matrix of floating-point numbers, got float32 (64,)",
        ),
        (
            normal(0, 32),
            {},
            "expected a matrix of floating-point numbers, got float32 (0, 32)",
        ),
        (
            np.ones((2, 32), np.int32),
            {},
            "expected a matrix of floating-point numbers, got int32 (2, 32)",
        ),
        (
            row(np.nan, np.inf),
            {},
            "expected finite weights, got 2 that are NaN or infinite",
        ),
    ],
)
def test_what_cannot_be_quantised_is_said(w, options, text):
    with pytest.raises(ValueError) as caught:
        quantize(w, **{"codec": "nf4"} | options)
    assert str(caught.value) == text


class TestSpec:
    def test_the_matrices_of_the_blocks_are_quantised_as_bitsandbytes_does(
        self, tiny, same
    ):
        model, made = tiny(), quant.quantize_model(tiny(), "nf4")
        plain, found = tree.leaves(model), quant.quantized_leaves(made)
        assert sorted(found) == [
            "blocks/attention/key/kernel",
            "blocks/attention/output/kernel",
            "blocks/attention/query/kernel",
            "blocks/attention/value/kernel",
            "blocks/mlp/down/kernel",
            "blocks/mlp/up/kernel",
        ]
        for path, value in found.items():
            assert (
                value.shape == plain[path].shape and value.transposed
            )  # blocks run along torch's rows
            assert same(value, quantize(plain[path].swapaxes(1, 2), "nf4").T)
        rest = {
            path: leaf for path, leaf in tree.leaves(made).items() if path not in found
        }
        assert same(rest, {path: plain[path] for path in rest})
        assert tree.count(made) == tree.count(model)

    def test_paths_blocks_and_double_quantisation_are_chosen(self, tiny):
        how = Spec("int8", 32, double=True, paths="^embed/tokens|query/kernel$")
        found = quant.quantized_leaves(quant.quantize_model(tiny(), how))
        assert sorted(found) == [
            "blocks/attention/query/kernel",
            "embed/tokens/embedding",
        ]
        assert not found["embed/tokens/embedding"].transposed
        for value in found.values():
            assert (value.codec, value.block) == ("int8", 32) and isinstance(
                value.scales, Scales
            )

    def test_what_is_quantised_stays_as_it_is(self, tiny, same):
        once = quant.quantize_model(tiny(), "nf4")
        assert same(quant.quantize_model(once, "int8"), once)

    def test_dequantised_is_the_model_of_the_numbers_it_stands_for(self, tiny):
        made = quant.quantize_model(tiny(), "fp4")
        plain = quant.dequantize_model(made)
        assert not quant.quantized_leaves(plain)
        for path, value in quant.quantized_leaves(made).items():
            assert (tree.leaves(plain)[path] == numbers_of(value)).all()

    def test_bits_of_a_model_are_those_of_all_its_quantised_values(self, tiny):
        assert quant.bits_per_parameter(quant.quantize_model(tiny(), "nf4")) == 4.5
        mixed = quant.quantize_model(
            quant.quantize_model(tiny(), Spec("nf4", paths="mlp/up/kernel")), "int8"
        )
        # Of either layer: 512 numbers in 4.5 bits; in 8 bits four matrices of 16 rows of 16, one of 16 rows of 32, a scale a row.
        assert (
            quant.bits_per_parameter(mixed)
            == (512 * 4.5 + (1024 + 512) * 8 + 5 * 16 * 32) / 2048
        )

    def test_names(self):
        assert set(quant.FORMATS) == {*CODECS, "nf4_double", "fp4_double"}
        assert quant.find_spec("nf4_double") == Spec("nf4", None, True, quant.BODY)
        assert quant.find_spec(Spec("int4", 128)) == Spec("int4", 128)
        with pytest.raises(ValueError) as caught:
            quant.find_spec("nf3")
        assert (
            str(caught.value)
            == f"quantize: expected one of {', '.join(quant.FORMATS)}, got 'nf3'"
        )

    def test_a_pattern_that_matches_nothing_is_an_error(self, tiny):
        with pytest.raises(
            ValueError, match=r"^'lstm' matches no leaf; there are: .*kernel"
        ):
            quant.quantize_model(tiny(), Spec("nf4", paths="lstm"))

    @pytest.mark.parametrize(
        "paths, change, text",
        [
            (
                "query/kernel$",
                np.nan,
                "blocks/attention/query/kernel: expected finite weights, got 1 that are NaN or infinite",
            ),
            (
                "query/kernel$",
                -np.inf,
                "blocks/attention/query/kernel: expected finite weights, got 1 that are NaN or infinite",
            ),
            (
                "embed/norm/bias$",
                0,
                "embed/norm/bias: expected a matrix of floating-point numbers, got float32 (16,)",
            ),
        ],
    )
    def test_what_cannot_be_quantised_is_named_by_path(self, tiny, paths, change, text):
        leaves = {
            path: np.array(leaf) for path, leaf in tree.find(tiny(), paths).items()
        }
        for leaf in leaves.values():
            leaf[(0,) * leaf.ndim] = change
        with pytest.raises(ValueError) as caught:
            quant.quantize_model(tree.replace(tiny(), leaves), Spec("nf4", paths=paths))
        assert str(caught.value) == text
