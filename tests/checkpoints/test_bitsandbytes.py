"""Checkpoints with bitsandbytes' keys: what the library itself wrote, what is written here, and what is wrong with a damaged one.

fixtures/bitsandbytes.safetensors has, for each weight, what bitsandbytes 0.50.2 stored (torch's state_dict) and
`<weight>.dequantized`, what it made of that; test_parity_bitsandbytes.py writes the same file anew.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lora_jax import quant, tree
from lora_jax.checkpoints import bitsandbytes, placement, safetensors
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import bert
from lora_jax.quant import Quantized, Scales
from lora_jax.quant.formats import FP4, NF4

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bitsandbytes.safetensors"
WRITTEN = {  # what is in it: shape, kind, block, double, dtype
    "whole": ((8, 64), "nf4", 64, False, "float32"),
    "double": ((16, 64), "nf4", 64, True, "float32"),
    "odd": ((5, 33), "nf4", 32, False, "float16"),
    "ragged": ((7, 22), "fp4", 128, False, "float32"),
    "both": ((8, 32), "fp4", 32, True, "bfloat16"),
    "int8": ((3, 32), "int8", 32, False, "float16"),
}
quantize: Any = quant.quantize
JSON = "w.weight.quant_state.bitsandbytes__nf4"


def plain(shape: tuple[int, int]) -> np.ndarray:
    """Zeros, then multiples of 1/512: so is the sum of their blocks' largest exact in whatever order."""
    w = ((np.arange(shape[0] * shape[1]) * 7919) % 1009 - 504).astype(np.float32) / 512
    w[:64] = 0
    return w.reshape(shape)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def collected(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return bitsandbytes.collect_quantized(
        safetensors.tensors(
            save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
        )
    )


def group(kind: str = "nf4", double: bool = False) -> dict[str, np.ndarray]:
    """The tensors of one weight (40, 64)."""
    return bitsandbytes.spread(
        "w.weight", quantize(normal(40, 64), kind, double=double)
    )


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
def test_what_is_spread_is_collected_bit_for_bit(
    kind, out, width, block, double, dtype, seed
):
    rng, blocks = np.random.default_rng(seed), -(-out * width // block)
    scales: Any = rng.normal(size=blocks).astype(np.float32)
    if double:
        offset: Any = np.array(rng.normal(), np.float32)
        nested: Any = rng.normal(size=-(-blocks // 256)).astype(np.float32)
        scales = Scales(rng.integers(0, 256, blocks).astype(np.uint8), nested, offset)
    codes: Any = rng.integers(0, 256, -(-out * width // 2)).astype(np.uint8)
    value = Quantized(
        codes, scales, None, kind, block, (out, width), dtype=jnp.dtype(dtype)
    )
    found = collected(
        bitsandbytes.spread("w.weight", value) | {"w.bias": np.ones(3, np.float32)}
    )
    assert sorted(found) == ["w.bias", "w.weight"] and found[
        "w.bias"
    ].read().tolist() == [1, 1, 1]
    assert found["w.weight"].shape == (out, width) and found[
        "w.weight"
    ].dtype == jnp.dtype(dtype)
    read = found["w.weight"].read()
    assert jax.tree.structure(read) == jax.tree.structure(value)
    for got, wanted in zip(jax.tree.leaves(read), jax.tree.leaves(value), strict=True):
        assert isinstance(got, np.ndarray) and got.dtype == wanted.dtype
        assert got.shape == wanted.shape and got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_bitsandbytes_wrote_is_read_to_the_bit(name):
    shape, kind, block, double, dtype = WRITTEN[name]
    found = bitsandbytes.collect_quantized(safetensors.tensors(FIXTURE.read_bytes()))
    value: Any = found[f"{name}.weight"].read()
    assert (
        value.shape,
        value.codec,
        value.block,
        isinstance(value.scales, Scales),
    ) == (
        shape,
        kind,
        block,
        double,
    )
    numbers, wanted = (
        np.asarray(value.dequantize()),
        found[f"{name}.dequantized"].read(),
    )
    if kind == "int8":  # where it multiplies by 1/127
        np.testing.assert_allclose(numbers, wanted, rtol=1e-6)
    else:  # FP4 has two zeros, of either sign as bitsandbytes reads them
        assert (
            numbers.dtype == wanted.dtype == jnp.dtype(dtype)
            and (numbers == wanted).all()
        )


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "int8"])
def test_what_is_quantised_here_is_what_bitsandbytes_wrote_to_the_bit(name):
    shape, kind, block, double, dtype = WRITTEN[name]
    value = quantize(
        jnp.array(plain(shape)).astype(dtype), kind, block=block, double=double
    )
    arrays = bitsandbytes.spread(f"{name}.weight", value)
    found = {
        key: tensor
        for key, tensor in safetensors.tensors(FIXTURE.read_bytes()).items()
        if key in arrays
    }
    assert found.keys() == arrays.keys()
    for key, tensor in found.items():
        assert (tensor.shape, tensor.dtype) == (arrays[key].shape, arrays[key].dtype), (
            key
        )
        assert tensor.read().tobytes() == arrays[key].tobytes(), key


def test_the_keys_are_those_of_bitsandbytes():
    arrays = group(double=True)
    assert {
        name: (a.dtype.name, a.shape) for name, a in arrays.items() if name != JSON
    } == {
        "w.weight": ("uint8", (1280, 1)),
        "w.weight.absmax": ("uint8", (40,)),
        "w.weight.quant_map": ("float32", (16,)),
        "w.weight.nested_absmax": ("float32", (1,)),
        "w.weight.nested_quant_map": ("float32", (256,)),
    }
    facts = json.loads(arrays[JSON].tobytes())
    offset = facts.pop("nested_offset")
    assert (
        np.float32(offset) == quantize(normal(40, 64), "nf4", double=True).scales.offset
    )
    assert facts == dict(
        quant_type="nf4",
        blocksize=64,
        dtype="float32",
        shape=[40, 64],
        nested_blocksize=256,
        nested_dtype="float32",
    )
    assert group()[
        "w.weight.absmax"
    ].dtype == np.float32 and "nested_absmax" not in "".join(group())


def test_packed_codes_may_be_stored_in_another_dtype(same):
    arrays = group()
    stored = arrays | {
        "w.weight": arrays["w.weight"].reshape(-1).view(np.float16)[:, None]
    }
    assert same(
        collected(stored)["w.weight"].read(), collected(arrays)["w.weight"].read()
    )


@pytest.mark.parametrize(
    "arrays, part",
    [
        (group(), "w.weight.absmax"),
        (group(double=True), "w.weight.nested_absmax"),
        (
            {"w.weight": np.ones((2, 3), np.int8), "w.SCB": np.ones(2, np.float32)},
            "w.SCB",
        ),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scales_that_are_no_numbers_are_refused(arrays, part, bad):
    numbers = arrays[part].copy()
    numbers.reshape(-1)[0] = bad
    said = part.replace(".SCB", ".weight: SCB")
    with pytest.raises(
        ValueError,
        match=f"{said}: expected finite scales, got 1 that are NaN or infinite",
    ):
        collected(arrays | {part: numbers})["w.weight"].read()


def test_llm_int8_by_hand():
    codes, scales = (
        np.array([[127, -64, 0], [1, 2, -127]], np.int8),
        np.array([127, 254], np.float32),
    )
    found = collected(
        {"w.weight": codes, "w.SCB": scales, "w.weight_format": np.array(0, np.uint8)}
    )
    assert list(found) == ["w.weight"] and found["w.weight"].shape == (2, 3)
    read: Any = found["w.weight"].read()
    assert (read.codec, read.block, read.stored, read.dtype) == (
        "int8",
        3,
        (2, 3),
        np.float32,
    )
    assert read.dequantize().tolist() == [[127, -64, 0], [2, 4, -254]]
    assert read.T.dequantize().tolist() == [[127, 2], [-64, 4], [0, -254]]


def test_tensors_of_no_group_are_passed_through():
    given_tensors = safetensors.tensors(
        save(
            {
                "a.weight": np.array([[1]], np.int8),
                "b.absmax_": np.ones(2),
                "c.bias": np.ones(3),
            }
        )
    )
    assert bitsandbytes.collect_quantized(given_tensors) == given_tensors


def test_nothing_but_what_describes_a_weight_is_read_before_its_time():
    read: list[str] = []

    def watched(name, tensor):
        return tensor._replace(read=lambda: read.append(name) or tensor.read())

    arrays = safetensors.tensors(save(group(double=True)))
    found = bitsandbytes.collect_quantized(
        {name: watched(name, tensor) for name, tensor in arrays.items()}
    )
    assert sorted(read) == ["w.weight.nested_quant_map", "w.weight.quant_map", JSON]
    read.clear()
    found["w.weight"].read()
    assert {"w.weight", "w.weight.absmax", "w.weight.nested_absmax"} <= set(read)


def changed(**facts: object) -> dict[str, np.ndarray]:
    """The group with other facts in its JSON; None takes a fact away."""
    arrays = group(double=True)
    said = json.loads(arrays[JSON].tobytes()) | facts
    text = json.dumps({name: fact for name, fact in said.items() if fact is not None})
    return arrays | {JSON: np.frombuffer(text.encode(), np.uint8)}


def without(*names: str) -> dict[str, np.ndarray]:
    return {
        name: array for name, array in group(double=True).items() if name not in names
    }


U8, F32 = np.uint8, np.float32


@pytest.mark.parametrize(
    "arrays, text",
    [
        (
            without("w.weight"),
            "w.weight: expected with w.weight.absmax, w.weight.nested_absmax, ",
        ),
        (without("w.weight.absmax"), "w.weight: expected with absmax, got none"),
        (without("w.weight.quant_map"), "w.weight: expected with quant_map, got none"),
        (
            without("w.weight.nested_absmax"),
            "w.weight: expected with nested_absmax, got none",
        ),
        (
            without("w.weight.nested_quant_map"),
            "w.weight: expected with nested_quant_map, got none",
        ),
        (
            without(JSON),
            "w.weight: expected with quant_state.bitsandbytes__nf4 or quant_state.bitsandbytes__fp4, got none",
        ),
        (
            without(JSON) | {JSON[:-3] + "nf3": np.array([123], U8)},
            "bitsandbytes__fp4, got quant_state.bitsandbytes__nf3",
        ),
        (
            group() | group("fp4"),
            "got quant_state.bitsandbytes__fp4, quant_state.bitsandbytes__nf4",
        ),
        (
            group() | {JSON: np.array([123, 34], U8)},
            f"{JSON}: expected a JSON object, got b'{{\"' (",
        ),
        (
            group() | {JSON: np.array([0xFF], U8)},
            f"{JSON}: expected a JSON object, got b'\\xff' (",
        ),
        (
            group() | {JSON: np.frombuffer(b"[" * 10**5, U8)},
            f"{JSON}: expected a JSON object, got b'[[[",
        ),
        (
            group() | {JSON: np.frombuffer(b"[64]", U8)},
            f"{JSON}: expected a JSON object, got b'[64]' (",
        ),
        (
            changed(quant_type="fp4"),
            f"{JSON}: expected quant_type to be 'nf4', got 'fp4'",
        ),
        (
            changed(blocksize=48),
            f"{JSON}: expected blocksize to be one of (32, 64, 128, 256, 512, 1024, 2048, 4096), got 48",
        ),
        (changed(blocksize="64"), "4096), got '64'"),
        (changed(blocksize=64.0), "4096), got 64.0"),
        (changed(blocksize=None), "4096), got None"),
        (
            changed(dtype="int8"),
            f"{JSON}: expected dtype to be one of float32, float16, bfloat16, got 'int8'",
        ),
        (changed(shape=[2560]), f"{JSON}: expected shape to be [out, in], got [2560]"),
        (
            changed(shape=[-40, -64]),
            f"{JSON}: expected shape to be [out, in], got [-40, -64]",
        ),
        (changed(shape=64), f"{JSON}: expected shape to be [out, in], got 64"),
        (
            changed(nested_blocksize=128),
            f"{JSON}: expected nested_blocksize to be 256, got 128",
        ),
        (
            changed(nested_dtype="float16"),
            f"{JSON}: expected nested_dtype to be 'float32', got 'float16'",
        ),
        (
            changed(nested_offset=None),
            f"{JSON}: expected nested_offset to be a number, got None",
        ),
        (
            changed(nested_offset=float("nan")),
            f"{JSON}: expected nested_offset to be a number, got nan",
        ),
        (
            changed(nested_offset=10**400),
            f"{JSON}: expected nested_offset to be a number, got 1000",
        ),
        (
            changed(shape=[40, 66]),
            "w.weight: expected 1320 bytes for (40, 66), got 1280",
        ),
        (
            changed(shape=[40, 66]),
            "w.weight.absmax: expected uint8 42, got uint8 (40,)",
        ),
        (changed(blocksize=32), "w.weight.absmax: expected uint8 80, got uint8 (40,)"),
        (
            group() | {"w.weight.absmax": np.zeros(40, U8)},
            "w.weight.absmax: expected float32 40, got uint8 (40,)",
        ),
        (
            group() | {"w.weight.quant_map": FP4},
            "w.weight.quant_map: expected the numbers of nf4",
        ),
        (
            group() | {"w.weight.quant_map": NF4 * F32(0.9999)},
            "w.weight.quant_map: expected the numbers of nf4",
        ),
        (
            group() | {"w.weight.quant_map": np.full(16, np.nan, F32)},
            "w.weight.quant_map: expected the numbers of nf4",
        ),
        (
            group() | {"w.weight.quant_map": NF4[:8]},
            "w.weight.quant_map: expected float32 16, got float32 (8,)",
        ),
        (
            group(double=True)
            | {"w.weight.nested_quant_map": np.linspace(-1, 1, 256, dtype=F32)},
            "w.weight.nested_quant_map: expected the numbers of double quantisation",
        ),
        (
            group() | {"w.SCB": np.ones(40, F32)},
            "w.weight: expected an int8 matrix (out, in) with SCB, got uint8 (1280, 1)",
        ),
        ({"w.SCB": np.ones(40, F32)}, "w.weight: expected with w.SCB, got none"),
        (
            {"w.weight": np.ones((2, 3), np.int8), "w.weight_format": np.array(0, U8)},
            "w.weight: expected with SCB, got none",
        ),
        (
            {"w.weight": np.ones((2, 3), np.int8), "w.SCB": np.ones(3, F32)},
            "w.weight.SCB: expected float32 2, got float32 (3,)",
        ),
        (
            {
                "w.weight": np.ones((2, 3), np.int8),
                "w.SCB": np.ones(2, F32),
                "w.weight_format": np.array(2, U8),
            },
            "w.weight: expected rows (weight_format 0), got [2]",
        ),
        (
            {
                "w.weight": np.ones((2, 3), np.int8),
                "w.SCB": np.ones(2, F32),
                "w.weight.absmax": np.ones(2, F32),
            },
            "w.weight.absmax: expected none beside SCB",
        ),
    ],
)
def test_what_is_wrong_with_a_group_is_said(arrays, text):
    with pytest.raises(
        ValueError,
        match=r"^weights that are not as bitsandbytes stores them:\n  w\.weight",
    ) as caught:
        collected(arrays)
    assert text in str(caught.value)


def test_every_problem_of_every_weight_is_named_at_once():
    bad = changed(quant_type="fp4", shape=[1], nested_blocksize=1)
    other = {
        name.replace("w.", "v.", 1): array
        for name, array in without("w.weight.absmax", "w.weight.quant_map").items()
    }
    with pytest.raises(ValueError) as caught:
        collected(bad | other | {"u.SCB": np.ones(2, F32)})
    said = str(caught.value)
    assert said.count("\n") == 6
    for part in (
        "quant_type to be",
        "shape to be",
        "nested_blocksize to be",
        "v.weight: expected with absmax",
        "u.weight",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    "value, text",
    [
        (
            quantize(normal(2, 32), "int8"),
            "w: expected nf4 or fp4 of float32, float16, bfloat16, got int8 of float32",
        ),
        (
            quantize(normal(2, 32), "nf4").astype("int8"),
            "w: expected nf4 or fp4 of float32, float16, bfloat16, got nf4 of int8",
        ),
        (
            quantize(normal(2, 32), "nf4").T,
            "w: expected a matrix (out, in) with blocks along its rows, got its transpose (32, 2)",
        ),
        (
            quantize(normal(3, 2, 32), "nf4"),
            "w: expected a matrix (out, in) with blocks along its rows, got a stack (3, 2, 32)",
        ),
    ],
)
def test_what_bitsandbytes_has_not_is_not_spread(value, text):
    with pytest.raises(ValueError) as caught:
        bitsandbytes.spread("w", value)
    assert str(caught.value) == text


NAMES = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
}
SINGLE = {
    "embed/tokens/embedding": "embeddings.word_embeddings.weight",
    "embed/positions/embedding": "embeddings.position_embeddings.weight",
    "embed/segments/embedding": "embeddings.token_type_embeddings.weight",
    "embed/norm/scale": "embeddings.LayerNorm.weight",
    "embed/norm/bias": "embeddings.LayerNorm.bias",
    "pooler/kernel": "pooler.dense.weight",
    "pooler/bias": "pooler.dense.bias",
    "head/kernel": "classifier.weight",
    "head/bias": "classifier.bias",
}
NORMS = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}


def checkpoint(model: bert.Encoder) -> dict[str, np.ndarray]:
    """The model under Hugging Face's names, with bitsandbytes' keys for what is quantised."""
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in tree.leaves(model).items():
        if path in SINGLE:
            arrays[SINGLE[path]] = leaf.T if path.endswith("kernel") else leaf
            continue
        layer, kind = path.removeprefix("blocks/").rsplit("/", 1)
        for i in range(leaf.shape[0]):
            name, each = (
                f"encoder.layer.{i}.{(NAMES | NORMS)[layer]}",
                jax.tree.map(lambda part, i=i: part[i], leaf),
            )
            if kind == "kernel":
                arrays |= bitsandbytes.spread(f"{name}.weight", each.T)
            else:
                arrays[f"{name}.{'weight' if kind == 'scale' else kind}"] = each
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def four_bits(tiny) -> bert.Encoder:
    return quant.quantize_model(tiny(), "fp4_double")


def test_a_model_saved_in_4_bits_is_loaded_as_it_was(four_bits, config, same):
    wanted, rules = tree.leaves(four_bits), bert.rules(config())
    # What is quantised is not quantised again, whatever is asked for.
    loaded = placement.load(
        collected(checkpoint(four_bits)),
        rules,
        wanted,
        dtype="float32",
        convert=quant.find_spec("int8"),
    )
    assert loaded.keys() == wanted.keys()
    for path in wanted:
        assert same(loaded[path], wanted[path]), path
    assert isinstance(loaded["blocks/mlp/up/kernel"].scales, Scales)


def test_of_a_model_in_4_bits_every_layer_has_to_be(four_bits, config):
    name = "encoder.layer.1.output.dense.weight"
    arrays = {
        other: array
        for other, array in checkpoint(four_bits).items()
        if not other.startswith(name)
    }
    with pytest.raises(
        ValueError,
        match="blocks/mlp/down/kernel: expected every layer to be stored alike",
    ):
        placement.load(
            collected(arrays | {name: normal(16, 32)}),
            bert.rules(config()),
            tree.leaves(four_bits),
        )
