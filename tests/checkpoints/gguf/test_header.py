"""What cannot be read of a GGUF file is named at once, in our words."""

import re
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax.checkpoints.gguf import read
from tests.checkpoints.gguf.files import stored, write

TYPES = "F32, F16, Q4_0, Q4_1, Q8_0"


def error_of(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and caught.value.__cause__ is None
    return text


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


@pytest.fixture
def small(tmp_path) -> Path:
    """Two tensors: 72 bytes at the start of the data, 68 at 96."""
    tensors = {
        "a.weight": stored(Type.Q4_0, 2, 64),
        "b.weight": stored(Type.Q8_0, 2, 32),
    }

    def add(writer):
        writer.add_token_list(["one", "two"])

    return write(tmp_path / "small.gguf", tensors, add)


@pytest.mark.parametrize(
    "start", [b"", b"GG", b"version https://git-lfs.github.com/spec/v1"]
)
def test_another_kind_of_file(tmp_path, start):
    path = tmp_path / "x.gguf"
    path.write_bytes(start)
    assert error_of(path).endswith(
        "expected a GGUF file, which begins with b'GGUF', got one that begins with "
        f"{start[:4]!r}"
    )


def test_another_version_and_byte_order(small, tmp_path):
    expected = "expected a little-endian GGUF file of version 2 or 3, got"
    small.write_bytes(b"GGUF\x01" + small.read_bytes()[5:])
    assert f"{expected} version 1" in error_of(small)
    big = tmp_path / "big.gguf"
    write(big, {"a": stored(Type.F32, 2)}, endianess=gguf.GGUFEndian.BIG)
    assert f"{expected} a big-endian one" in error_of(big)


def test_a_file_cut_anywhere(small):
    content = small.read_bytes()
    # 72 bytes of a and 68 of b, both filled up to 96.
    data = len(content) - 192
    end = data + 96 + 68
    for length in range(4, end):
        small.write_bytes(content[:length])
        text = error_of(small)
        # The header is filled up too: its last 31 bytes may be missing.
        if length < data - 31:
            assert "the header of this GGUF file is cut short or damaged (" in text
            assert re.search(r"expected \d+ bytes from byte \d+ on, the file has", text)
            assert text.endswith(f"on, the file has {length}). Fetch the file again.")
        elif length >= data:
            lost = [f"a.weight ends at {data + 72}", f"b.weight ends at {end}"]
            if length >= data + 72:
                lost = lost[1:]
            assert text.endswith(
                f"\n  cut off, the file has {length} bytes ({len(lost)}): "
                + ", ".join(lost)
            )
    small.write_bytes(content[:end])
    assert len(read(small).tensors) == 2


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_is_a_damaged_header(data):
    def add(writer):
        writer.add_token_list(["o"])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        write(path, {"a.weight": stored(Type.Q4_0, 2, 64)}, add)
        content = bytearray(path.read_bytes())
        # Up to three bytes between the magic and the data.
        places = st.integers(4, len(content) - 97)
        for place in data.draw(st.lists(places, min_size=1, max_size=3)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            file = read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            for tensor in file.tensors.values():
                assert tensor.read().shape == tensor.shape


def test_everything_that_is_not_read_is_named_at_once(tmp_path):
    tensors = {}
    for i in range(7):
        tensors[f"blk.{i}.attn_q.weight"] = np.zeros((2, 144), np.uint8), Type.Q4_K
    tensors["output.weight"] = np.zeros((1, 210), np.uint8), Type.Q6_K
    tensors["b1.weight"] = stored(Type.Q8_0, 2, 32)
    tensors["b2.weight"] = stored(Type.Q8_0, 2, 32)
    tensors["odd.weight"] = stored(Type.Q4_0, 1, 32)
    tensors["norm"] = stored(Type.F32, 8)
    path = write(tmp_path / "x.gguf", tensors)

    # One name twice, and a row that ends within a block.
    data = path.read_bytes().replace(b"b2.weight", b"b1.weight")
    start = b"odd.weight" + number(2, size=4)
    assert data.count(start + number(32, size=8)) == 1
    data = data.replace(start + number(32, size=8), start + number(31, size=8))
    path.write_bytes(data)
    first = ", ".join(f"blk.{i}.attn_q.weight" for i in range(5))
    assert error_of(path) == (
        f"{path}: expected whole tensors of the types {TYPES}, got"
        f"\n  type Q4_K (7): {first}, ..."
        "\n  type Q6_K (1): output.weight"
        "\n  not a matrix in rows of whole blocks of 32 (1): odd.weight (1, 31)"
        "\n  given twice (1): b1.weight"
    )


@pytest.mark.parametrize(
    "place, byte, text",
    [
        (4, 0, "empty .*: norm \\(0,\\)"),
        (0, 5, "more than 4 dimensions .*: norm "),
    ],
)
def test_a_shape_that_cannot_be(tmp_path, place, byte, text):
    path = write(tmp_path / "x.gguf", {"norm": stored(Type.F32, 8)})
    data = bytearray(path.read_bytes())
    # After the name come the number of dimensions, then the dimensions.
    data[data.index(b"norm") + 4 + place] = byte
    path.write_bytes(data)
    assert re.search(text, error_of(path))


def test_a_type_nobody_knows(small):
    # Of b: its name, the number of dimensions, the dimensions, then the type.
    start = b"b.weight" + number(2, size=4) + number(32, size=8) + number(2, size=8)
    data = small.read_bytes()
    known = start + bytes([Type.Q8_0])
    assert data.count(known) == 1
    small.write_bytes(data.replace(known, start + bytes([99])))
    text = error_of(small)
    assert text.endswith(f"of the types {TYPES}, got\n  type 99 (1): b.weight")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x.gguf")
