"""Tensors land under our names, or every mismatch is named at once."""

import tracemalloc

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


def torch_style(
    layers: int, out: int, inner: int, prefix: str = ""
) -> dict[str, np.ndarray]:
    shape = {"weight": (out, inner), "bias": (out,)}
    names = [
        (i, kind, leaf)
        for i in range(layers)
        for kind in ("query", "key")
        for leaf in shape
    ]
    numbers = {
        name: np.arange(np.prod(shape[name[2]])) + 100 * n
        for n, name in enumerate(names)
    }
    return {
        f"{prefix}layer.{i}.{kind}.{leaf}": numbers[i, kind, leaf]
        .reshape(shape[leaf])
        .astype(np.float32)
        for i, kind, leaf in names
    }


def ours(layers: int, out: int, inner: int) -> dict[str, jax.ShapeDtypeStruct]:
    shape = {"kernel": (layers, inner, out), "bias": (layers, out)}
    expected = {
        f"blocks/{k}/{leaf}": jax.ShapeDtypeStruct(s, jnp.float32)
        for k in ("query", "key")
        for leaf, s in shape.items()
    }
    return expected | {"head/kernel": jax.ShapeDtypeStruct((inner, 2), jnp.float32)}


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
    for kind in ("query", "key"):
        weights = [arrays[f"{prefix}layer.{i}.{kind}.weight"].T for i in range(layers)]
        np.testing.assert_array_equal(
            loaded[f"blocks/{kind}/kernel"], np.stack(weights)
        )
        assert loaded[f"blocks/{kind}/kernel"].flags.c_contiguous


FUSED = (Rule(r"(\d+)\.qkv", ("blocks/query", "blocks/key", "blocks/value"), layer=1),)


def unfused(layers: int, *widths: int) -> dict[str, jax.ShapeDtypeStruct]:
    paths = (f"blocks/{name}" for name in ("query", "key", "value"))
    return {
        path: jax.ShapeDtypeStruct((layers, 2, width), jnp.float32)
        for path, width in zip(paths, widths, strict=True)
    }


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_fused_tensor_is_cut_into_the_widths_of_its_leaves(widths, layers, transpose):
    parts = [
        [
            100 * i + 10 * j + np.ones((2, width), np.float32)
            for j, width in enumerate(widths)
        ]
        for i in range(layers)
    ]
    fused = [np.concatenate(part, axis=1) for part in parts]
    arrays = {
        f"{i}.qkv": np.ascontiguousarray(whole.T) if transpose else whole
        for i, whole in enumerate(fused)
    }
    loaded = load(
        tensors(save(arrays)),
        (FUSED[0]._replace(transpose=transpose),),
        unfused(layers, *widths),
    )
    for j, name in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(
            loaded[f"blocks/{name}"], np.stack([part[j] for part in parts])
        )


@pytest.mark.parametrize(
    "names, expected, text",
    [
        (
            ["0.qkv", "2.qkv"],
            unfused(2, 3, 3, 3),
            "missing (3):\n  blocks/query (2, 2, 3): layers 1\n  blocks/key (2, 2, 3): layers 1\n  blocks/value (2, 2, 3): "
            "layers 1\nunexpected (1):\n  2.qkv (2, 9) in bytes: blocks/query has layers 0 to 1",
        ),
        (
            ["0.qkv"],
            unfused(1, 3, 3, 4),
            "0.qkv (2, 9) in bytes: expected (2, 10) for blocks/query, blocks/key, blocks/value",
        ),
        (
            ["0.qkv", "00.qkv"],
            unfused(1, 3, 3, 3),
            "00.qkv (2, 9) in bytes: blocks/query has 0.qkv already",
        ),
        (
            ["0.qkv"],
            {"blocks/query": unfused(1, 9, 0, 0)["blocks/query"]},
            "missing (1):\n  blocks/query (1, 2, 9)\nunexpected (1):\n  0.qkv (2, 9) in bytes: the model has no blocks/key, "
            "blocks/value",
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


def test_peak_memory_is_the_result_and_one_tensor(tmp_path):
    layers, one = 16, 256 * 256 * 4
    arrays = {
        f"layer.{i}.query.weight": np.full((256, 256), i, np.float32)
        for i in range(layers)
    }
    save_file(arrays, tmp_path / SINGLE)
    expected = {
        "blocks/query/kernel": jax.ShapeDtypeStruct((layers, 256, 256), jnp.float32)
    }
    tracemalloc.start()
    loaded = load(tensors(tmp_path), TORCH, expected)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded["blocks/query/kernel"][:, 0, 0].tolist() == list(range(layers))
    assert layers * one <= peak < (layers + 3) * one


def test_quantised_layer_by_layer_peak_memory_is_the_bits_and_a_few_tensors(tmp_path):
    layers, one = 32, 256 * 256 * 4
    arrays = {
        f"layer.{i}.query.weight": np.full((256, 256), i, np.float32)
        for i in range(layers)
    }
    save_file(arrays, tmp_path / SINGLE)
    expected = {
        "blocks/query/kernel": jax.ShapeDtypeStruct((layers, 256, 256), jnp.float32)
    }
    quant.quantize(
        np.ones((256, 256), np.float32), "nf4"
    )  # what compiling takes is not the loader's
    tracemalloc.start()
    loaded = load(tensors(tmp_path), TORCH, expected, convert=quant.Spec("nf4"))[
        "blocks/query/kernel"
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        loaded.shape == (layers, 256, 256) and loaded.nbytes == layers * one * 4.5 / 32
    )
    assert loaded.nbytes <= peak < loaded.nbytes + 4 * one, (
        "the floats of all layers are 32"
    )


def test_a_quantised_tensor_cannot_be_cut():
    value = quant.quantize(np.ones((96, 32), np.float32), "nf4")
    fused = {
        f"layer.{i}.qkv.weight": Tensor(
            "file", (96, 32), np.dtype("float32"), lambda: value
        )
        for i in range(2)
    }
    rules = [
        Rule(
            r"layer\.(\d)\.qkv\.weight",
            tuple(f"blocks/{name}/kernel" for name in "qkv"),
            1,
            True,
        )
    ]
    expected = {
        f"blocks/{name}/kernel": jax.ShapeDtypeStruct((2, 32, 32), jnp.float32)
        for name in "qkv"
    }
    with pytest.raises(
        ValueError,
        match=r"layer.0.qkv.weight in file: expected an array to cut blocks/q/kernel from",
    ):
        load(fused, rules, expected)


def test_every_mismatch_is_named_at_once():
    arrays = torch_style(3, 2, 4)
    del arrays["layer.1.key.weight"]
    arrays["layer.0.query.weight"] = np.zeros((2, 5), np.float32)
    arrays["layer.3.query.bias"] = np.zeros(2, np.float32)
    arrays["bert.layer.2.key.bias"] = np.zeros(2, np.float32)
    arrays["classifier.weight"] = np.zeros((3, 4), np.float32)
    arrays |= {f"cls.{i:02d}": np.zeros(1, np.float32) for i in range(12)}
    expected = ours(3, 2, 4) | {"norm/scale": jax.ShapeDtypeStruct((4,), jnp.float32)}
    with pytest.raises(
        ValueError, match="the checkpoint does not fit the model:"
    ) as caught:
        load(tensors(save(arrays)), TORCH, expected)
    said = str(caught.value)
    assert (
        "\nmissing (2):\n  blocks/key/kernel (3, 4, 2): layers 1\n  norm/scale (4,)\n"
        in said
    )
    assert (
        "\nunexpected (13):\n  cls.00 (1,) in bytes: no rule takes it\n" in said
        and "\n  ... and 3 more\n" in said
    )
    assert (
        "given twice (1):\n  layer.2.key.bias (2,) in bytes: blocks/key/bias has bert.layer.2.key.bias already"
        in said
    )
    assert (
        "layer.0.query.weight (2, 5) in bytes: expected (2, 4) for blocks/query/kernel"
        in said
    )
    assert "classifier.weight (3, 4) in bytes: expected (2, 4) for head/kernel" in said
    with pytest.raises(
        ValueError, match=r"layer.3.query.bias .* blocks/query/bias has layers 0 to 2"
    ):
        load(tensors(save(arrays)), TORCH, expected, ignore=(r"cls\..*",))


def test_what_is_ignored_is_matched_whole_and_after_the_rules():
    arrays = torch_style(1, 1, 1) | {"position_ids": np.arange(3)}
    assert load(
        tensors(save(arrays)), TORCH, ours(1, 1, 1), ignore=("position_ids", "layer.*")
    ).keys()
    with pytest.raises(ValueError, match=r"position_ids .* no rule takes it"):
        load(tensors(save(arrays)), TORCH, ours(1, 1, 1), ignore=("position",))


def test_a_rule_to_a_path_the_model_lacks():
    with pytest.raises(ValueError, match=r"a \(1,\) in bytes: the model has no b"):
        load(tensors(save({"a": np.zeros(1)})), (Rule("a", "b"),), {})


def test_an_optional_path_that_is_there_is_loaded():
    arrays = torch_style(1, 3, 4) | {
        "classifier.weight": np.arange(8.0, dtype=np.float32).reshape(2, 4)
    }
    assert load(tensors(save(arrays)), TORCH, ours(1, 3, 4))["head/kernel"][
        :, 1
    ].tolist() == [
        4,
        5,
        6,
        7,
    ]
