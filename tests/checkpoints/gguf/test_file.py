"""A GGUF file's blocks are the `gguf` package's numbers, bit for bit."""

import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import quant
from lora_jax.checkpoints.gguf import file as ours
from lora_jax.nn.layers import Embedding
from tests.checkpoints.gguf.files import BITS, dense, stored, write
from tests.checkpoints.gguf.published import read_smollm2

TYPES = [*BITS, Type.F16, Type.F32]


def read_tensor(source: Path | bytes, name: str = "x") -> Any:
    return ours.read(source).tensors[name].read()


def read_back(folder: Path, data: np.ndarray, raw_type: Type) -> Any:
    """A tensor of these bytes, written and read."""
    path = write(folder / "x.gguf", {"x": (data, raw_type)})
    return read_tensor(path)


@pytest.fixture
def small(tmp_path) -> Path:
    """Two tensors, of 72 and 68 bytes."""
    tensors = {
        "a.weight": stored(Type.Q4_0, 2, 64),
        "b.weight": stored(Type.Q8_0, 2, 32),
    }
    return write(tmp_path / "small.gguf", tensors)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.lists(st.integers(1, 3), max_size=1),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(-6, 3),
    st.integers(0, 2**32 - 1),
)
def test_values_are_the_package_s_bit_for_bit(
    raw_type, stack, rows, blocks, decade, seed
):
    shape = (*stack, rows, 32 * blocks)
    data, _ = stored(raw_type, *shape, scale=10.0**decade, seed=seed)
    tensors = {"first": stored(Type.F32, 3), "x": (data, raw_type)}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.gguf", tensors)
        tensor = ours.read(path).tensors["x"]
        value: Any = tensor.read()
    assert tensor.shape == value.shape == shape
    assert tensor.dtype == value.dtype
    for leaf in jax.tree.leaves(value):
        assert type(leaf) is np.ndarray
    if raw_type in BITS:
        assert quant.bits_per_parameter(value) == BITS[raw_type]
        data = gguf.quants.dequantize(data, raw_type)
    numbers = dense(value)
    assert numbers.dtype == data.dtype
    assert numbers.tobytes() == data.tobytes()


def test_nibbles_by_hand(tmp_path):
    # Byte j has number j in its low half and number 16 + j in its high half: here they
    # are j and 15 - j, in steps of 1/2 from -8.
    nibbles = [(15 - j) << 4 | j for j in range(16)]
    scale = np.array([0.5], np.float16).view(np.uint8)
    codes = np.array(nibbles, np.uint8)
    block = np.concatenate([scale, codes])
    value = read_back(tmp_path, block[None], Type.Q4_0)
    # The row's first half is in the high bits, its second half in the low ones.
    assert bytes(value.codes).hex() == "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    up = np.arange(-4, 4, 0.5)
    down = np.arange(3.5, -4.5, -0.5)
    expected = np.concatenate([up, down])
    np.testing.assert_array_equal(value.dequantize()[0], expected)


@pytest.mark.parametrize("raw_type", BITS)
def test_compiled_they_are_the_same(raw_type, tmp_path):
    data, _ = stored(raw_type, 8, 64)
    value = read_back(tmp_path, data, raw_type)
    dequantize = jax.jit(quant.Quantized.dequantize)
    numbers = dequantize(jax.tree.map(jnp.asarray, value))
    expected = gguf.quants.dequantize(data, raw_type)
    assert np.asarray(numbers).tobytes() == expected.tobytes()
    np.testing.assert_array_equal(value.T.dequantize(), numbers.T)


def test_an_embedding_takes_its_rows(tmp_path):
    data, raw_type = stored(Type.Q8_0, 50, 64)
    table = read_back(tmp_path, data, raw_type)
    layer = Embedding(jax.tree.map(jnp.asarray, table))
    tokens = jnp.array([[3, 49], [0, 3]])
    expected = gguf.quants.dequantize(data, raw_type)[tokens]
    np.testing.assert_array_equal(jax.jit(layer)(tokens), expected)


@pytest.mark.parametrize("raw_type", BITS)
def test_scales_that_are_no_numbers_are_refused(raw_type, tmp_path):
    data, _ = stored(raw_type, 2, 64)
    # The first block begins with its scale.
    nan = np.float16(np.nan).tobytes()
    data.reshape(-1)[:2] = np.frombuffer(nan, np.uint8)
    path = write(tmp_path / "nan.gguf", {"a.weight": (data, raw_type)})
    text = r"a\.weight: expected finite scales, got 1 that are NaN or infinite"
    with pytest.raises(ValueError, match=text):
        read_tensor(path, "a.weight")


def test_metadata_are_plain_values(tmp_path):
    def add(writer):
        writer.add_layer_norm_eps(0.5)
        writer.add_causal_attention(False)
        writer.add_token_list(["[PAD]", "ö"])
        writer.add_token_types([1, 3])

    metadata = ours.read(write(tmp_path / "x.gguf", {}, add)).metadata
    assert metadata == {
        "general.architecture": "bert",
        "bert.block_count": 2,
        "bert.attention.layer_norm_epsilon": 0.5,
        "bert.attention.causal": False,
        "tokenizer.ggml.tokens": ["[PAD]", "ö"],
        "tokenizer.ggml.token_type": [1, 3],
    }
    types = {type(value) for value in metadata.values()}
    assert types == {str, int, float, bool, list}


def test_bytes_are_as_good_as_a_file(small):
    data = small.read_bytes()
    for source, name in ((data, "bytes"), (small, small.name)):
        tensors = ours.read(source).tensors.values()
        places = [(tensor.file, tensor.shape) for tensor in tensors]
        assert places == [(name, (2, 64)), (name, (2, 32))]
    for name in ("a.weight", "b.weight"):
        numbers = read_tensor(data, name).dequantize()
        np.testing.assert_array_equal(numbers, read_tensor(small, name).dequantize())
    with pytest.raises(ValueError, match=r"^bytes: expected whole tensors"):
        ours.read(data[:-64])


def test_a_tensor_is_read_when_asked_for_and_not_dequantized(tmp_path):
    path = write(tmp_path / "x.gguf", {"x": stored(Type.Q4_1, 512, 1024)})
    tracemalloc.start()
    tensor = ours.read(path).tensors["x"]
    opened = tracemalloc.get_traced_memory()[1]
    value: Any = tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert value.nbytes == 512 * 1024 * 5 // 8
    assert opened < value.nbytes / 4
    # float32 takes 6.4 times as much; a byte for each code 1.6 times.
    assert peak < 4 * value.nbytes


@pytest.mark.real
def test_a_published_model(tmp_path):
    path = tmp_path / "smollm2.gguf"
    path.write_bytes(read_smollm2())
    tracemalloc.start()
    file = ours.read(path)
    values: dict[str, Any] = {}
    for name, tensor in file.tensors.items():
        values[name] = tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * path.stat().st_size

    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 30
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49_152
    formats = Counter()
    for value in values.values():
        is_quantized = quant.is_quantized(value)
        formats[value.codec if is_quantized else value.dtype.name] += 1
    assert formats == {"int4_affine": 210, "int8": 1, "float32": 61}
    assert sum(value.size for value in values.values()) == 134_515_008

    # The package's numbers, of one tensor of each kind.
    by_package = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name in (
        "token_embd.weight",
        "blk.0.attn_k.weight",
        "blk.29.ffn_down.weight",
        "blk.11.attn_norm.weight",
    ):
        tensor = by_package[name]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert dense(values[name]).tobytes() == expected.tobytes(), name
