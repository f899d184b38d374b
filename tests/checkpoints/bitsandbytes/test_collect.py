"""Weights that bitsandbytes keeps in several tensors are read as one value."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lora_jax import quant
from lora_jax.checkpoints import bitsandbytes, safetensors
from lora_jax.quant import Quantized, Scales
from tests.checkpoints.bitsandbytes.files import (
    FIXTURE,
    JSON,
    WRITTEN,
    collect,
    group,
    normal,
    plain,
    write_weight,
)

quantize: Any = quant.quantize


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["nf4", "fp4"]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(quant.BLOCKS),
    st.booleans(),
    st.sampled_from(bitsandbytes.DTYPES),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_collected_bit_for_bit(
    codec, out, width, block, double, dtype, seed
):
    rng = np.random.default_rng(seed)
    blocks = -(-out * width // block)
    scales: Any = rng.normal(size=blocks).astype(np.float32)
    if double:
        offset: Any = np.array(rng.normal(), np.float32)
        nested: Any = rng.normal(size=-(-blocks // 256)).astype(np.float32)
        scales = Scales(rng.integers(0, 256, blocks).astype(np.uint8), nested, offset)
    codes: Any = rng.integers(0, 256, -(-out * width // 2)).astype(np.uint8)
    shape = (out, width)
    value = Quantized(codes, scales, None, codec, block, shape, dtype=jnp.dtype(dtype))

    # Beside it a tensor that is not quantized.
    bias = {"w.bias": np.ones(3, np.float32)}
    tensors = collect(write_weight("w.weight", value) | bias)
    assert sorted(tensors) == ["w.bias", "w.weight"]
    assert tensors["w.bias"].read().tolist() == [1, 1, 1]
    assert tensors["w.weight"].shape == shape
    assert tensors["w.weight"].dtype == jnp.dtype(dtype)

    read = tensors["w.weight"].read()
    assert jax.tree.structure(read) == jax.tree.structure(value)
    pairs = zip(jax.tree.leaves(read), jax.tree.leaves(value), strict=True)
    for leaf, expected in pairs:
        assert isinstance(leaf, np.ndarray)
        assert (leaf.dtype, leaf.shape) == (expected.dtype, expected.shape)
        assert leaf.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_bitsandbytes_wrote_is_read_to_the_bit(name):
    shape, codec, block, double, dtype = WRITTEN[name]
    stored = safetensors.tensors(FIXTURE.read_bytes())
    tensors = bitsandbytes.collect_quantized(stored)
    value: Any = tensors[f"{name}.weight"].read()
    assert (value.shape, value.codec, value.block) == (shape, codec, block)
    assert isinstance(value.scales, Scales) == double

    numbers = np.asarray(value.dequantize())
    expected = tensors[f"{name}.dequantized"].read()
    if codec == "int8":
        # bitsandbytes multiplies by 1/127 where we divide.
        np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    else:
        # Equal, not of the same bits: FP4 has two zeros, and bitsandbytes reads them
        # with either sign.
        assert numbers.dtype == expected.dtype == jnp.dtype(dtype)
        assert (numbers == expected).all()


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "int8"])
def test_what_is_quantized_here_is_what_bitsandbytes_wrote_to_the_bit(name):
    shape, codec, block, double, dtype = WRITTEN[name]
    weights = jnp.array(plain(shape)).astype(dtype)
    value = quantize(weights, codec, block=block, double=double)
    arrays = write_weight(f"{name}.weight", value)
    stored = safetensors.tensors(FIXTURE.read_bytes())
    assert arrays.keys() <= stored.keys()
    for key, array in arrays.items():
        tensor = stored[key]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype), key
        assert tensor.read().tobytes() == array.tobytes(), key


def test_the_keys_are_those_of_bitsandbytes():
    arrays = group(double=True)
    facts = json.loads(arrays.pop(JSON).tobytes())
    kinds = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    assert kinds == {
        "w.weight": ("uint8", (1280, 1)),
        "w.weight.absmax": ("uint8", (40,)),
        "w.weight.quant_map": ("float32", (16,)),
        "w.weight.nested_absmax": ("float32", (1,)),
        "w.weight.nested_quant_map": ("float32", (256,)),
    }
    value = quantize(normal(40, 64), "nf4", double=True)
    assert np.float32(facts.pop("nested_offset")) == value.scales.offset
    assert facts == {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "float32",
        "shape": [40, 64],
        "nested_blocksize": 256,
        "nested_dtype": "float32",
    }
    # Without double quantization the scales are floats.
    single = group()
    assert single["w.weight.absmax"].dtype == np.float32
    assert "nested_absmax" not in "".join(single)


def test_packed_codes_may_be_stored_in_another_dtype(same):
    arrays = group()
    column = arrays["w.weight"].reshape(-1).view(np.float16)[:, None]
    other = collect(arrays | {"w.weight": column})
    assert same(other["w.weight"].read(), collect(arrays)["w.weight"].read())


def test_llm_int8_by_hand():
    codes = np.array([[127, -64, 0], [1, 2, -127]], np.int8)
    scales = np.array([127, 254], np.float32)
    rows = np.array(0, np.uint8)
    tensors = collect({"w.weight": codes, "w.SCB": scales, "w.weight_format": rows})
    assert list(tensors) == ["w.weight"] and tensors["w.weight"].shape == (2, 3)

    value: Any = tensors["w.weight"].read()
    assert (value.codec, value.block, value.stored) == ("int8", 3, (2, 3))
    assert value.dtype == np.float32
    assert value.dequantize().tolist() == [[127, -64, 0], [2, 4, -254]]
    assert value.T.dequantize().tolist() == [[127, 2], [-64, 4], [0, -254]]


def test_tensors_of_no_group_are_passed_through():
    arrays = {
        "a.weight": np.array([[1]], np.int8),
        "b.absmax_": np.ones(2),
        "c.bias": np.ones(3),
    }
    tensors = safetensors.tensors(save(arrays))
    assert bitsandbytes.collect_quantized(tensors) == tensors


def test_only_what_describes_a_weight_is_read_before_its_time():
    names: list[str] = []

    def watched(name, tensor):
        def read():
            names.append(name)
            return tensor.read()

        return tensor._replace(read=read)

    stored = safetensors.tensors(save(group(double=True)))
    tensors = bitsandbytes.collect_quantized(
        {name: watched(name, tensor) for name, tensor in stored.items()}
    )
    assert sorted(names) == ["w.weight.nested_quant_map", "w.weight.quant_map", JSON]
    names.clear()
    tensors["w.weight"].read()
    assert {"w.weight", "w.weight.absmax", "w.weight.nested_absmax"} <= set(names)
