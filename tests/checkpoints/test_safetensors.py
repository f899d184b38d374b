"""What was saved comes back bit for bit; a damaged file or a bad index is named."""

import json
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from lora_jax.checkpoints import placement
from lora_jax.checkpoints.placement import Rule
from lora_jax.checkpoints.safetensors import INDEX, SINGLE, tensors

SAME = (Rule("(.*)", r"\1"),)
DTYPES = ["float32", "float16", "bfloat16", "int64", "uint8", "bool"]
TREES = st.dictionaries(
    st.from_regex(r"[a-z]{1,3}(\.[a-z0-9]{1,3}){0,2}", fullmatch=True),
    st.tuples(
        st.sampled_from(DTYPES),
        st.lists(st.integers(0, 3), max_size=3),
        st.integers(0, 4),
    ),  # 4: file of shard
    min_size=1,
    max_size=8,
)


def shapes(arrays: dict[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for path, array in arrays.items()
    }


def save_shards(
    folder: Path, arrays: dict[str, np.ndarray], shard: dict[str, int]
) -> None:
    files = {name: f"model-{number:05d}.safetensors" for name, number in shard.items()}
    for file in set(files.values()):
        save_file(
            {name: arrays[name] for name in arrays if files[name] == file},
            folder / file,
        )
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))


@settings(max_examples=40, deadline=None)
@given(TREES, st.booleans(), st.integers(0, 2**32 - 1))
def test_any_tree_comes_back_bit_for_bit(specs, sharded, seed):
    random = np.random.default_rng(seed)
    arrays = {
        name: np.asarray(
            random.integers(0, 2 if dtype == "bool" else 100, shape)
        ).astype(jnp.dtype(dtype))
        for name, (dtype, shape, _) in specs.items()
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sharded:
            save_shards(
                folder, arrays, {name: shard for name, (*_, shard) in specs.items()}
            )
        else:
            save_file(arrays, folder / SINGLE)
        sources = [folder] if sharded else [folder, (folder / SINGLE).read_bytes()]
        for source in sources:
            loaded = placement.load(tensors(source), SAME, shapes(arrays))
            assert loaded.keys() == arrays.keys()
            for path, array in arrays.items():
                assert (loaded[path].dtype, loaded[path].shape) == (
                    array.dtype,
                    array.shape,
                )
                assert loaded[path].tobytes() == array.tobytes()


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_a_damaged_file_is_named(tmp_path, cut):
    data = save({"a": np.zeros(4)})[:cut]
    (tmp_path / SINGLE).write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"model.safetensors: not a whole safetensors file .* fetch it again",
    ):
        tensors(tmp_path)
    with pytest.raises(ValueError, match="bytes: not a whole safetensors file"):
        tensors(data)


def test_a_dtype_numpy_lacks_is_named(tmp_path):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    (tmp_path / SINGLE).write_bytes(data)
    for source in (data, tmp_path):
        with pytest.raises(
            ValueError, match="tensor a has dtype F8_E4M3, expected one of F16, F32"
        ):
            tensors(source)


def test_torch_pickles_alone_are_not_read(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        FileNotFoundError,
        match=r"found \['pytorch_model.bin'\]. Torch pickles are not read: convert",
    ):
        tensors(tmp_path)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"expected model.safetensors or .*, found no such directory",
    ):
        tensors(tmp_path / "none")


def test_shards_that_are_not_there_are_named(tmp_path):
    arrays = {name: np.zeros(1) for name in "abc"}
    save_shards(tmp_path, arrays, {"a": 1, "b": 2, "c": 3})
    (tmp_path / "model-00001.safetensors").unlink()
    (tmp_path / "model-00003.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"names 3 files, of which these are missing:"
        r"\s+model-00001.*\s+model-00003.safetensors$",
    ):
        tensors(tmp_path)


def test_tensors_their_shard_lacks_are_named(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / INDEX).write_text(
        json.dumps({"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}})
    )
    with pytest.raises(
        ValueError, match=r"names tensors that their files lack:\s+b in x.safetensors$"
    ):
        tensors(tmp_path)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/x.safetensors", "..", "a/../../x", "a\\x", ""]
)
def test_an_index_must_not_lead_elsewhere(tmp_path, file):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(
        ValueError,
        match=r"expected plain file names beside the index, refused:\s+a in '",
    ):
        tensors(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "\xff"]
)
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError,
        match=r'index.json: expected \{"weight_map": \{tensor: file name\}\} as JSON',
    ):
        tensors(tmp_path)


def test_the_names_of_tensors_are_bounded(tmp_path):
    message = "expected the names of tensors in up to 10,000,000 bytes, got 10,000,001"
    (tmp_path / SINGLE).write_bytes((10_000_001).to_bytes(8, "little") + b"{")
    with pytest.raises(ValueError, match=message):
        tensors(tmp_path)
    (tmp_path / SINGLE).rename(tmp_path / "x.safetensors")
    (tmp_path / INDEX).touch()
    os.truncate(tmp_path / INDEX, 10_000_001)
    with pytest.raises(ValueError, match=message):
        tensors(tmp_path)


def test_an_index_nested_beyond_any_is_none(tmp_path):
    index = '{"weight_map": {}, "metadata": ' + "[" * 5000 + "]" * 5000 + "}"
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(ValueError, match=r"as JSON .*nested more than 100 levels"):
        tensors(tmp_path)
