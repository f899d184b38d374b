"""QLoRA's Figure 6: against public models, the library's own values, and the bars."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import quant
from lora_jax.accounting.llama_memory import (
    LLAMAS,
    PARTS,
    bits_by_growth,
    quantized_bytes,
    step_bytes,
)
from lora_jax.paper.qlora import MB, figure6

METRICS = {name: step_bytes(name, rank=64, block=64, tokens=512) for name in LLAMAS}


def published(part: str) -> list[float]:
    bars = figure6()
    return [bars[name, part] for name in LLAMAS]


def megabytes(metric: str) -> list[float]:
    return [metrics[metric] / MB for metrics in METRICS.values()]


def quantized_shape(shape, **settings):
    """A quantized matrix of this shape, without values."""

    def make():
        return quant.quantize(jnp.zeros(shape), "nf4", **settings)

    return jax.eval_shape(make)


class TestSizes:
    def test_the_models_have_the_public_sizes(self):
        parameters = [sizes.parameters for sizes in LLAMAS.values()]
        public = [6_738_415_616, 13_015_864_320, 32_528_943_616, 65_285_660_672]
        assert parameters == public

    def test_a_model_by_hand(self):
        sizes = LLAMAS["LLaMA 7B"]
        assert sizes.sides == 11 * 4096 + 3 * 11008
        block = 4 * 4096**2 + 3 * 4096 * 11008
        assert sizes.block_parameters == 32 * block

    @pytest.mark.parametrize("name", LLAMAS)
    def test_s_is_19_1_times_the_width(self, name):
        sizes = LLAMAS[name]
        assert round(sizes.sides / sizes.width, 1) == 19.1


class TestQuantizedBytes:
    @pytest.mark.parametrize(("double", "bits"), [(True, 4.127), (False, 4.5)])
    @pytest.mark.parametrize("name", LLAMAS)
    def test_a_models_matrices_have_the_papers_bits(self, name, double, bits):
        for shape in dict.fromkeys(LLAMAS[name].matrices):
            value = quantized_shape(shape, double=double)
            formula = quantized_bytes(shape[0] * shape[1], 64, double=double)
            assert formula == value.nbytes
            assert 8 * value.nbytes / value.size == pytest.approx(bits, abs=5e-4)

    @settings(max_examples=15, deadline=None)
    @given(
        st.integers(1, 300),
        st.integers(1, 300),
        st.sampled_from([32, 64, 256]),
        st.booleans(),
    )
    def test_matrices_of_any_size_have_the_librarys_bytes(self, i, o, block, double):
        value = quantized_shape((i, o), block=block, double=double)
        assert quantized_bytes(i * o, block, double=double) == value.nbytes


class TestStep:
    def test_by_hand(self):
        sizes = LLAMAS["LLaMA 7B"]
        metrics = step_bytes("LLaMA 7B", rank=2, block=64, tokens=10)
        adapters = 2 * 32 * 2 * sizes.sides
        assert metrics["ours/adapters"] == adapters
        assert metrics["ours/weight gradient"] == adapters
        assert metrics["ours/optimizer"] == 4 * adapters
        assert metrics["ours/input gradient"] == 2 * 10 * sizes.sides
        parts = [metrics[f"ours/{part}"] for part in PARTS]
        assert metrics["ours/total"] == sum(parts)
        # NF4 with a float32 scale for each block of 64 is 4.5 bits.
        blocks = sizes.block_parameters * 4.5 / 8
        assert metrics["fitted/model"] == blocks + 2 * sizes.other_parameters
        assert metrics["sequence/inputs_of_blocks"] == 32 * 10 * 4096 * 2

    def test_adapters_have_the_parameters_that_peft_counts(self):
        # r = 64 on all linear layers of the 7B, in 2 bytes.
        assert METRICS["LLaMA 7B"]["ours/adapters"] == 2 * 159_907_840

    def test_full_fine_tuning_is_12_bytes_a_parameter(self):
        metrics = METRICS["LLaMA 65B"]
        assert metrics["full/parameters"] == LLAMAS["LLaMA 65B"].parameters
        assert metrics["full/total"] == 12 * metrics["full/parameters"]


class TestFigure:
    def test_18_h_gives_the_printed_adapters_to_the_digit(self):
        assert published("adapters") == [288, 450, 877.5, 1440]
        assert megabytes("fitted/adapters") == published("adapters")
        assert megabytes("fitted/weight gradient") == published("adapters")
        assert megabytes("ours/adapters") == [305, 477.5, 930, 1525]

    def test_18_h_gives_the_printed_optimizer_to_the_digit(self):
        assert megabytes("fitted/optimizer") == published("optimizer")


def test_growth_is_that_of_the_blocks_whatever_is_there_beside_them():
    small, large = LLAMAS["LLaMA 7B"], LLAMAS["LLaMA 65B"]
    sizes = []
    for model in (small, large):
        # Four bits for the blocks, 16 for all else, and a GB of something else.
        sizes.append(model.block_parameters / 2 + 2 * model.other_parameters + 1e9)
    bits = bits_by_growth(small, large, small_bytes=sizes[0], large_bytes=sizes[1])
    assert bits == pytest.approx(4)
