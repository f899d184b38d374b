"""Formats against examples by hand, definitions in numpy, and bitsandbytes' errors."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from lora_jax import quant
from lora_jax.quant import CODECS, Scales
from lora_jax.quant.formats import DYNAMIC, FP4, NF4
from lora_jax.quant.packing import unpack
from tests.quant.numbers import decode, dequantize, encode, normal, quantize, row


class Example(NamedTuple):
    """One block, and what it is stored as."""

    codec: str
    w: np.ndarray
    scale: float
    minimum: float | None
    stored: list[int]  # the codes as they are stored
    numbers: list[float]  # the first four, dequantized


EXAMPLES = [
    Example(
        codec="nf4",
        w=row(2, -2, 1, 0),
        scale=2,
        minimum=None,
        # In units of 2: 0.5 is nearer to 0.4407 (code 12) than to 0.5626.
        # The first half of the codes is in the high bits, the second in the low ones.
        stored=[0xF7, 0x07, 0xC7, *[0x77] * 13],
        numbers=[2, -2, 2 * 0.44070982933044434, 0],
    ),
    Example(
        codec="fp4",
        w=row(12, -12, 6, 0.7),
        scale=12,
        minimum=None,
        stored=[0x30, 0xB0, 0x50, 0x10, *[0x00] * 12],
        numbers=[12, -12, 6, 0.0625],
    ),
    Example(
        codec="int4",
        w=row(7, -7, 3.4, -0.6),
        scale=1,
        minimum=None,
        stored=[0xF8, 0x18, 0xB8, 0x78, *[0x88] * 12],
        numbers=[7, -7, 3, -1],
    ),
    Example(
        codec="int4_affine",
        w=row(-1, 14, 0, 6.4, fill=3),
        scale=1,
        minimum=-1,
        stored=[0x04, 0xF4, 0x14, 0x74, *[0x44] * 12],
        numbers=[-1, 14, 0, 6],
    ),
    Example(
        codec="int8",
        w=row(127, -127, 3.4, -0.6),
        scale=1,
        minimum=None,
        stored=[127, -127, 3, -1, *[0] * 28],
        numbers=[127, -127, 3, -1],
    ),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.codec)
def test_one_block_by_hand(example):
    value = quantize(example.w, example.codec, block=32)

    assert value.codes.dtype == (np.int8 if example.codec == "int8" else np.uint8)
    assert value.codes.tolist() == example.stored
    assert value.scales.tolist() == [example.scale]
    if example.minimum is None:
        assert value.minima is None
    else:
        assert value.minima.tolist() == [example.minimum]

    first_numbers = value.dequantize()[0, :4]
    np.testing.assert_allclose(first_numbers, example.numbers, rtol=1e-6)
    assert value.shape == (1, 32)
    assert value.ndim == 2
    assert value.size == 32
    assert value.dtype == np.float32


def test_a_short_block_has_a_minimum_of_its_own_numbers():
    # All above 10: what the block is filled up with must not be below.
    w = 10 + np.abs(normal(1, 40))
    value = quantize(w, "int4_affine", block=32)
    expected = [w[0, :32].min(), w[0, 32:].min()]
    np.testing.assert_array_equal(value.minima, np.array(expected, np.float32))


ZEROS = {"nf4": 0x77, "fp4": 0x00, "int4": 0x88, "int4_affine": 0x00, "int8": 0}


@pytest.mark.parametrize("codec", ZEROS)
def test_a_block_of_zeros_stays_zeros(codec):
    value = quantize(np.zeros((2, 32), np.float32), codec, block=32)
    assert set(value.codes.tolist()) == {ZEROS[codec]}
    assert value.scales.tolist() == [0, 0]
    assert (dequantize(value) == 0).all()


@pytest.mark.parametrize("codec", CODECS)
def test_a_last_block_that_is_not_full_has_its_own_scale(codec):
    w = normal(3, 35)  # 105 numbers: three blocks and 9 more, an odd count
    w[2, -9:] *= 100
    value = quantize(w, codec, block=32)
    assert value.codes.shape == ((105,) if codec == "int8" else (53,))
    assert value.scales.shape == (4,)

    numbers = dequantize(value)
    last_block = quantize(w[2:, -9:], codec, block=32)
    assert numbers.shape == (3, 35)
    np.testing.assert_allclose(
        numbers[2, -9:],
        dequantize(last_block)[0],
        rtol=1e-6,
    )


DEFINED: list[tuple[str, Any, int]] = [("nf4", NF4, block) for block in quant.BLOCKS]
DEFINED.append(("fp4", FP4, 64))


@pytest.mark.parametrize("codec, table, block", DEFINED)
def test_codes_scales_and_numbers_are_those_of_the_definition_to_the_bit(
    codec, table, block
):
    w = normal(65, 127, seed=block)  # ragged and odd whatever the block
    value = quantize(w, codec, block=block)

    codes, scales = encode(w.reshape(-1), table, block)
    assert (np.asarray(value.scales) == scales).all()
    assert (unpack(value.codes)[: w.size] == codes).all()

    numbers = decode(codes, scales, table, block)
    assert (dequantize(value) == numbers.reshape(w.shape)).all()


class TestDoubleQuantization:
    # 560 scales: two blocks of 256 and a ragged one
    W = normal(70, 512)

    @pytest.fixture
    def double(self):
        return quantize(self.W, "nf4", double=True)

    @pytest.fixture
    def single(self):
        return quantize(self.W, "nf4")

    def test_only_the_scales_differ(self, double, single):
        assert isinstance(double.scales, Scales)
        assert (double.codes == single.codes).all()

    def test_scales_are_encoded_as_defined(self, double, single):
        mean = np.float64(single.scales).mean()
        offset = np.asarray(double.scales.offset)
        np.testing.assert_allclose(offset, mean, rtol=1e-6)

        distances = np.asarray(single.scales) - offset
        codes, nested_scales = encode(distances, DYNAMIC, 256)
        # Compiled, a product and a difference are one rounding: the offset's last bit,
        # and at times another neighbor.
        np.testing.assert_allclose(
            double.scales.scales,
            nested_scales,
            rtol=0,
            atol=2.0**-22,
        )
        difference = np.asarray(double.scales.codes).astype(int) - codes
        distance = np.abs(difference)
        assert distance.max() <= 1
        assert distance.mean() < 0.005

    def test_scales_are_decoded_as_defined(self, double, single):
        stored = double.scales
        distances = decode(
            np.asarray(stored.codes),
            np.asarray(stored.scales),
            DYNAMIC,
            256,
        )
        scales = distances + np.asarray(stored.offset)
        assert (stored.dequantize() == scales).all()

        # The error is at most half the widest step of the table.
        half_step = np.diff(DYNAMIC).max() / 2
        nested_scales = np.repeat(stored.scales, 256)[:560]
        error = np.abs(scales - single.scales)
        assert (error <= 1.001 * half_step * nested_scales).all()

    def test_equal_scales_have_the_same_bits(self, double, single):
        again = quantize(self.W, "nf4", double=True).scales
        other = quantize(normal(70, 512, seed=1), "nf4", double=True).scales
        assert double.scales == again
        assert hash(double.scales) == hash(again)
        assert double.scales != other
        assert double.scales != single.scales.tolist()


def test_the_table_of_double_quantization():
    assert len(set(DYNAMIC.tolist())) == 256
    assert DYNAMIC[127] == 0
    assert DYNAMIC[-1] == 1
    assert DYNAMIC[0] == -DYNAMIC[-2]
    assert abs(DYNAMIC[0] + 0.99296874) < 1e-7
    # 0.55, then 0.325 and 0.775 of the decade above
    smallest = [5.5e-7, 3.25e-6, 7.75e-6]
    np.testing.assert_allclose(DYNAMIC[128:131], smallest, rtol=1e-6)


# Of bitsandbytes on 1024 x 1024 numbers N(0, 1), the mean of 200 samples:
# mean |error|, and mean |error| / |number|.
BITSANDBYTES_ERRORS = [
    ("nf4", 32, 0.067746, 0.189726),
    ("fp4", 32, 0.088925, 0.242443),
    ("nf4", 64, 0.072798, 0.203339),
    ("fp4", 64, 0.096543, 0.260125),
    ("nf4", 128, 0.076831, 0.215237),
    ("fp4", 128, 0.102969, 0.275817),
    ("nf4", 256, 0.080337, 0.226105),
    ("fp4", 256, 0.108684, 0.289831),
]


@pytest.mark.parametrize("codec, block, absolute, relative", BITSANDBYTES_ERRORS)
def test_errors_are_those_of_bitsandbytes(codec, block, absolute, relative):
    w = normal(1024, 1024)
    numbers = np.asarray(dequantize(quantize(w, codec, block=block)))
    error = np.abs(numbers - w)
    relative_error = error / (np.abs(w) + 1e-8)
    assert abs(error.mean() - absolute) < 3e-4  # four standard deviations of a sample
    assert abs(relative_error.mean() - relative) < 1e-3
    if (codec, block) == ("nf4", 64):
        root_mean_square = np.sqrt((error**2).mean())
        assert abs(root_mean_square - 0.0920) < 3e-4


def test_bits_and_bytes():
    w = normal(1024, 1024)
    n = w.size
    nf4 = quantize(w, "nf4")
    double = quantize(w, "nf4", double=True)
    affine = quantize(w, "int4_affine")
    int8 = quantize(w, "int8")

    # A scale, in float32, for 64 numbers; doubly quantized one for 64 * 256.
    assert nf4.nbytes == n // 2 + 4 * n // 64
    assert double.nbytes == n // 2 + n // 64 + 4 * n // (64 * 256) + 4

    assert quant.bits_per_parameter(nf4) == 4.5
    assert round(quant.bits_per_parameter(double), 3) == 4.127  # QLoRA, section 3
    assert quant.bits_per_parameter(affine) == 5
    assert quant.bits_per_parameter(int8) == 8 + 32 / 1024  # a scale a row
