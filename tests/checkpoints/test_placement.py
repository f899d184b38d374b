"""Tensors land under our names, or every mismatch is named at once."""

import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from lora_jax import quant
from lora_jax.checkpoints.placement import Rule, load
from lora_jax.checkpoints.safetensors import SINGLE, tensors
from lora_jax.checkpoints.tensor import Tensor

SAME = (Rule("(.*)", r"\1"),)


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for path, array in arrays.items()
    }


# A family's rules: torch's names with a prefix or without.
TORCH = (
    Rule(
        r"(?:bert\.)?layer\.(\d+)\.(query|key)\.weight",
        r"blocks/\2/kernel",
        layer=1,
        transpose=True,
    ),
    Rule(r"(?:bert\.)?layer\.(\d+)\.(query|key)\.bias", r"blocks/\2/bias", layer=1),
    Rule(r"classifier\.weight", "head/kernel", transpose=True),
)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def torch_style(
    layers: int, out: int, inner: int, prefix: str = ""
) -> dict[str, np.ndarray]:
    """A checkpoint in which no two tensors have the same numbers."""
    arrays = {}
    for i in range(layers):
        for module in ("query", "key"):
            for leaf, shape in (("weight", (out, inner)), ("bias", (out,))):
                numbers = np.arange(np.prod(shape)) + 100 * len(arrays)
                name = f"{prefix}layer.{i}.{module}.{leaf}"
                arrays[name] = numbers.reshape(shape).astype(np.float32)
    return arrays


def ours(layers: int, out: int, inner: int) -> dict[str, jax.ShapeDtypeStruct]:
    expected = {"head/kernel": floats(inner, 2)}
    for module in ("query", "key"):
        expected[f"blocks/{module}/kernel"] = floats(layers, inner, out)
        expected[f"blocks/{module}/bias"] = floats(layers, out)
    return expected


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["", "bert."]),
)
def test_torch_names_are_stacked_and_transposed(layers, out, inner, prefix):
    arrays = torch_style(layers, out, inner, prefix)
    loaded = load(tensors(save(arrays)), TORCH, ours(layers, out, inner))
    assert sorted(loaded) == [
        "blocks/key/bias",
        "blocks/key/kernel",
        "blocks/query/bias",
        "blocks/query/kernel",
    ]
    for module in ("query", "key"):
        # [L, in, out]
        kernel = loaded[f"blocks/{module}/kernel"]
        for i in range(layers):
            weight = arrays[f"{prefix}layer.{i}.{module}.weight"]
            np.testing.assert_array_equal(kernel[i], weight.T)
        assert kernel.flags.c_contiguous


FUSED = (Rule(r"(\d+)\.qkv", ("blocks/query", "blocks/key", "blocks/value"), layer=1),)


def unfused(layers: int, *widths: int) -> dict[str, jax.ShapeDtypeStruct]:
    paths = ("blocks/query", "blocks/key", "blocks/value")
    shapes = {}
    for path, width in zip(paths, widths, strict=True):
        shapes[path] = floats(layers, 2, width)
    return shapes


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_fused_tensor_is_cut_into_the_widths_of_its_leaves(widths, layers, transpose):
    # The part of layer i for leaf j is all 100 i + 10 j + 1.
    expected = unfused(layers, *widths)
    arrays = {}
    for i in range(layers):
        parts = []
        for j, width in enumerate(widths):
            parts.append(np.full((2, width), 100 * i + 10 * j + 1, np.float32))
        fused = np.concatenate(parts, axis=1)
        arrays[f"{i}.qkv"] = np.ascontiguousarray(fused.T) if transpose else fused
    rule = FUSED[0]._replace(transpose=transpose)
    loaded = load(tensors(save(arrays)), (rule,), expected)
    for j, (path, leaf) in enumerate(expected.items()):
        for i in range(layers):
            numbers = np.full(leaf.shape[1:], 100 * i + 10 * j + 1)
            np.testing.assert_array_equal(loaded[path][i], numbers)


@pytest.mark.parametrize(
    "names, expected, text",
    [
        (
            ["0.qkv", "2.qkv"],
            unfused(2, 3, 3, 3),
            "missing (3):"
            "\n  blocks/query (2, 2, 3): layers 1"
            "\n  blocks/key (2, 2, 3): layers 1"
            "\n  blocks/value (2, 2, 3): layers 1"
            "\nunexpected (1):"
            "\n  2.qkv (2, 9) in bytes: blocks/query has layers 0 to 1",
        ),
        (
            ["0.qkv"],
            unfused(1, 3, 3, 4),
            "0.qkv (2, 9) in bytes: expected (2, 10) for blocks/query, blocks/key, "
            "blocks/value",
        ),
        (
            ["0.qkv", "00.qkv"],
            unfused(1, 3, 3, 3),
            "00.qkv (2, 9) in bytes: blocks/query has 0.qkv already",
        ),
        (
            ["0.qkv"],
            {"blocks/query": unfused(1, 9, 0, 0)["blocks/query"]},
            "missing (1):"
            "\n  blocks/query (1, 2, 9)"
            "\nunexpected (1):"
            "\n  0.qkv (2, 9) in bytes: the model has no blocks/key, blocks/value",
        ),
    ],
)
def test_a_fused_tensor_that_does_not_fit_is_named_with_all_its_paths(
    names, expected, text
):
    with pytest.raises(
        ValueError, match="the checkpoint does not fit the model:"
    ) as caught:
        load(
            tensors(save({name: np.zeros((2, 9), np.float32) for name in names})),
            FUSED,
            expected,
        )
    assert text in str(caught.value)


def test_floats_are_converted_and_integers_kept():
    arrays = {"f": np.array([1.5, 3], np.float32), "i": np.array([2**40])}
    loaded = load(tensors(save(arrays)), SAME, shapes(arrays), dtype="bfloat16")
    assert loaded["f"].dtype == jnp.bfloat16 and loaded["f"].tolist() == [1.5, 3]
    assert loaded["i"].dtype == np.int64 and loaded["i"].tolist() == [2**40]


def test_layers_of_two_dtypes_take_the_wider_one():
    arrays = torch_style(2, 1, 1)
    arrays["layer.1.query.bias"] = np.full(1, 1 + 2**-10, np.float32)
    arrays["layer.0.query.bias"] = np.ones(1, jnp.bfloat16)
    assert load(tensors(save(arrays)), TORCH, ours(2, 1, 1))[
        "blocks/query/bias"
    ].tolist() == [
        [1],
        [1 + 2**-10],
    ]


# Bytes of a matrix of the following tests.
ONE = 256 * 256 * 4


def save_queries(folder: Path, layers: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Write a checkpoint of query weights, and return the shape they have here."""
    arrays = {}
    for i in range(layers):
        arrays[f"layer.{i}.query.weight"] = np.full((256, 256), i, np.float32)
    save_file(arrays, folder / SINGLE)
    return {"blocks/query/kernel": floats(layers, 256, 256)}


def test_peak_memory_is_the_result_and_one_tensor(tmp_path):
    layers = 16
    expected = save_queries(tmp_path, layers)
    tracemalloc.start()
    loaded = load(tensors(tmp_path), TORCH, expected)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded["blocks/query/kernel"][:, 0, 0].tolist() == list(range(layers))
    assert layers * ONE <= peak < (layers + 3) * ONE


def test_quantized_layer_by_layer_peak_memory_is_the_bits_and_a_few_tensors(tmp_path):
    layers = 32
    expected = save_queries(tmp_path, layers)
    # Once before: what compiling takes is not the loader's.
    quant.quantize(np.ones((256, 256), np.float32), "nf4")
    tracemalloc.start()
    loaded = load(tensors(tmp_path), TORCH, expected, convert=quant.Spec("nf4"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    value = loaded["blocks/query/kernel"]
    assert value.shape == (layers, 256, 256)
    assert value.nbytes == layers * ONE * 4.5 / 32
    # The floats of all layers would be 32.
    assert value.nbytes <= peak < value.nbytes + 4 * ONE


def test_a_quantized_tensor_cannot_be_cut():
    value = quant.quantize(np.ones((96, 32), np.float32), "nf4")
    tensor = Tensor("file", (96, 32), np.dtype("float32"), lambda: value)
    fused = {"layer.0.qkv.weight": tensor, "layer.1.qkv.weight": tensor}
    paths = ("blocks/q/kernel", "blocks/k/kernel", "blocks/v/kernel")
    rule = Rule(r"layer\.(\d)\.qkv\.weight", paths, layer=1, transpose=True)
    expected = dict.fromkeys(paths, floats(2, 32, 32))
    text = "layer.0.qkv.weight in file: expected an array to cut blocks/q/kernel from"
    with pytest.raises(ValueError, match=text):
        load(fused, [rule], expected)


def test_every_mismatch_is_named_at_once():
    arrays = torch_style(3, 2, 4)
    del arrays["layer.1.key.weight"]
    arrays["layer.0.query.weight"] = np.zeros((2, 5), np.float32)
    arrays["layer.3.query.bias"] = np.zeros(2, np.float32)
    arrays["bert.layer.2.key.bias"] = np.zeros(2, np.float32)
    arrays["classifier.weight"] = np.zeros((3, 4), np.float32)
    arrays |= {f"cls.{i:02d}": np.zeros(1, np.float32) for i in range(12)}
    expected = ours(3, 2, 4) | {"norm/scale": floats(4)}
    with pytest.raises(
        ValueError, match="the checkpoint does not fit the model:"
    ) as caught:
        load(tensors(save(arrays)), TORCH, expected)
    text = str(caught.value)
    for part in (
        "\nmissing (2):\n  blocks/key/kernel (3, 4, 2): layers 1\n  norm/scale (4,)\n",
        "\nunexpected (13):\n  cls.00 (1,) in bytes: no rule takes it\n",
        "\n  ... and 3 more\n",
        "given twice (1):\n  layer.2.key.bias (2,) in bytes: "
        "blocks/key/bias has bert.layer.2.key.bias already",
        "layer.0.query.weight (2, 5) in bytes: expected (2, 4) for blocks/query/kernel",
        "classifier.weight (3, 4) in bytes: expected (2, 4) for head/kernel",
    ):
        assert part in text, part
    with pytest.raises(
        ValueError, match=r"layer.3.query.bias .* blocks/query/bias has layers 0 to 2"
    ):
        load(tensors(save(arrays)), TORCH, expected, ignore=(r"cls\..*",))


def test_what_is_ignored_is_matched_from_end_to_end_and_after_the_rules():
    arrays = torch_style(1, 1, 1) | {"position_ids": np.arange(3)}
    stored = tensors(save(arrays))
    ignore = ("position_ids", "layer.*")
    assert load(stored, TORCH, ours(1, 1, 1), ignore=ignore).keys()
    with pytest.raises(ValueError, match=r"position_ids .* no rule takes it"):
        load(stored, TORCH, ours(1, 1, 1), ignore=("position",))


def test_a_rule_to_a_path_the_model_lacks():
    with pytest.raises(ValueError, match=r"a \(1,\) in bytes: the model has no b"):
        load(tensors(save({"a": np.zeros(1)})), (Rule("a", "b"),), {})


def test_an_optional_path_that_is_there_is_loaded():
    arrays = torch_style(1, 3, 4) | {
        "classifier.weight": np.arange(8.0, dtype=np.float32).reshape(2, 4)
    }
    loaded = load(tensors(save(arrays)), TORCH, ours(1, 3, 4))
    assert loaded["head/kernel"][:, 1].tolist() == [4, 5, 6, 7]
